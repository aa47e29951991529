#![no_main]
wsluice_fuzz::run!(tls_moved);
