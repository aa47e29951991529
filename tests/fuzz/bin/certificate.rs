#![no_main]
wsluice_fuzz::run!(certificate);
