//! Names and passwords (RFC 7617) as credentials: what a request brings, and the file of users that it is compared with.
//!
//! Only bcrypt is taken. The other hashes of htpasswd files are so fast that a stolen file is as good as the passwords in it.
//! What two readers may understand differently is refused: a second `Authorization`, base64 that is not canonical, control
//! characters. Whoever is not in the file costs as much as one who is, so that time does not tell who exists.
//!
//! A check takes a thread for 50 to 100 ms and more: `auth::basic` decides where and when it runs.

mod credentials;
mod denial;
mod hash;
mod users;

pub use credentials::Credentials;
pub use denial::{BasicDenial, CREDENTIALS_BYTES_MAX, CredentialsFlaw, challenge};
pub use hash::{COST_MAX, HashFlaw, Password, PasswordHash};
pub use users::{USERS_BYTES_MAX, USERS_MAX, Users};
