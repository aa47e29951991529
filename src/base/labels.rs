//! Labels of enums in metrics and logs. One table gives both the label of a value and the list of all, so that neither can
//! lack one.

/// Gives an enum whose variants have no fields `ALL`, its variants in the order of the table, and `label`.
macro_rules! variant_labels {
    ($type:ident { $($variant:ident => $label:literal,)+ }) => {
        impl $type {
            /// All of them, in order.
            pub const ALL: [$type; [$($label),+].len()] = [$($type::$variant),+];

            /// Returns the name used in metrics and logs.
            pub const fn label(self) -> &'static str {
                match self {
                    $($type::$variant => $label,)+
                }
            }
        }
    };
}

/// Gives a type `LABELS` and `label`, by patterns.
macro_rules! labels {
    ($type:ident { $($pattern:pat => $label:literal,)+ }) => {
        impl $type {
            /// All names used in metrics and logs, for series that begin at 0.
            pub const LABELS: [&'static str; [$($label),+].len()] = [$($label),+];

            /// Returns the name used in metrics and logs.
            pub const fn label(&self) -> &'static str {
                match self {
                    $($pattern => $label,)+
                }
            }
        }
    };
}

pub(crate) use {labels, variant_labels};

#[cfg(test)]
mod tests {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Kind {
        One,
        Two,
    }

    enum Fault {
        Late,
        Lost(()),
        Gone,
    }

    variant_labels! {
        Kind {
            One => "one",
            Two => "two",
        }
    }

    labels! {
        Fault {
            Fault::Late => "late",
            Fault::Lost(_) | Fault::Gone => "lost",
        }
    }

    #[test]
    fn both_are_of_one_table() {
        assert_eq!(Kind::ALL, [Kind::One, Kind::Two]);
        assert_eq!(Kind::ALL.map(Kind::label), ["one", "two"]);
        assert_eq!(Fault::LABELS, ["late", "lost"]);
        assert_eq!([Fault::Late, Fault::Lost(()), Fault::Gone].map(|fault| fault.label()), ["late", "lost", "lost"]);
    }
}
