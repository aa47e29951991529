#![no_main]
wsluice_fuzz::run!(heads);
