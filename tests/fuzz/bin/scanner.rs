#![no_main]
wsluice_fuzz::run!(scanner);
