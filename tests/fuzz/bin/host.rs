#![no_main]
wsluice_fuzz::run!(host);
