#![no_main]
wsluice_fuzz::run!(tunnel);
