#![no_main]
wsluice_fuzz::run!(proxy_protocol);
