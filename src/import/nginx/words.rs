//! The directives by name: what the importer turns into something, what needs nothing, and what is lost and why.

/// What becomes of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// `convert` looks at it.
    Known,
    /// wsluice does it anyway, or has no need of it.
    Needless,
    /// It kept somebody out, and has no counterpart: its routes are closed.
    Guard,
    /// It has no counterpart, for this reason.
    Lost(&'static str),
}

const KNOWN: [&str; 75] = [
    "access_log",
    "add_header",
    "allow",
    "auth_basic",
    "auth_basic_user_file",
    "auth_request",
    "auth_request_set",
    "client_max_body_size",
    "default_type",
    "deny",
    "error_page",
    "gzip",
    "gzip_min_length",
    "gzip_types",
    "hash",
    "http",
    "if",
    "include",
    "internal",
    "ip_hash",
    "least_conn",
    "limit_conn",
    "limit_conn_zone",
    "limit_req",
    "limit_req_zone",
    "listen",
    "location",
    "map",
    "proxy_connect_timeout",
    "proxy_hide_header",
    "proxy_pass",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "proxy_set_header",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "proxy_ssl_name",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_verify",
    "random",
    "real_ip_header",
    "return",
    "rewrite",
    "root",
    "alias",
    "index",
    "satisfy",
    "server",
    "server_name",
    "set",
    "set_real_ip_from",
    "ssl",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_client_certificate",
    "ssl_protocols",
    "ssl_verify_client",
    "try_files",
    "upstream",
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "grpc_pass",
    "memcached_pass",
    "break",
    "empty_gif",
    "stub_status",
    "content_by_lua_block",
    "content_by_lua",
    "content_by_lua_file",
    "js_content",
    "perl",
    "mirror",
    "dav_methods",
    "autoindex",
];

/// Beginnings of names whose directives need nothing, one family each.
const NEEDLESS: [&str; 80] = [
    "absolute_redirect",
    "accept_mutex",
    "aio",
    "chunked_transfer_encoding",
    "client_body_",
    "client_header_",
    "connection_pool_size",
    "daemon",
    "debug_connection",
    "directio",
    "error_log",
    "etag",
    "events",
    "expires",
    "fastcgi_",
    "gzip_",
    "http2",
    "http3",
    "if_modified_since",
    "ignore_invalid_headers",
    "keepalive",
    "large_client_header_buffers",
    "limit_conn_log_level",
    "limit_conn_status",
    "limit_req_log_level",
    "limit_req_status",
    "lingering_",
    "load_module",
    "log_format",
    "log_not_found",
    "log_subrequest",
    "max_ranges",
    "merge_slashes",
    "msie_",
    "multi_accept",
    "ntlm",
    "open_file_cache",
    "open_log_file_cache",
    "output_buffers",
    "pcre_jit",
    "pid",
    "port_in_redirect",
    "postpone_output",
    "proxy_buffer",
    "proxy_busy_buffers_size",
    "proxy_cache_bypass",
    "proxy_headers_hash_",
    "proxy_http_version",
    "proxy_ignore_client_abort",
    "proxy_max_temp_file_size",
    "proxy_next_upstream",
    "proxy_no_cache",
    "proxy_pass_header",
    "proxy_pass_request_",
    "proxy_request_buffering",
    "proxy_socket_keepalive",
    "proxy_ssl_",
    "proxy_temp_",
    "quic_",
    "real_ip_recursive",
    "reset_timedout_connection",
    "resolver",
    "send_lowat",
    "send_timeout",
    "sendfile",
    "server_name_in_redirect",
    "server_names_hash_",
    "server_tokens",
    "ssl_",
    "tcp_no",
    "thread_pool",
    "timer_resolution",
    "types",
    "underscores_in_headers",
    "use",
    "user",
    "uwsgi_",
    "variables_hash_",
    "worker_",
    "zone",
];

const GUARDS: [&str; 13] = [
    "access_by_lua",
    "auth_delay",
    "auth_digest",
    "auth_gss",
    "auth_jwt",
    "auth_ldap",
    "auth_oidc",
    "auth_pam",
    "auth_require",
    "js_access",
    "limit_except",
    "secure_link",
    "valid_referers",
];

const LOST: [(&str, &str); 26] = [
    ("proxy_cache", "wsluice caches nothing"),
    ("proxy_store", "wsluice stores nothing"),
    ("proxy_redirect", "wsluice changes no Location: the server must know the path that clients use"),
    ("proxy_cookie_", "wsluice changes no cookies of the server"),
    ("proxy_intercept_errors", "a server's own answers stay as they are"),
    ("proxy_bind", "see `source_addresses` of the upstream"),
    ("proxy_limit_rate", "see `limits.server_rate` of the route, which is about WebSockets"),
    ("proxy_method", "a request keeps its method"),
    ("proxy_set_body", "a request keeps its body"),
    ("proxy_", "wsluice has no counterpart"),
    ("ssl_crl", "revocation lists are not read"),
    ("ssl_ocsp", "revocation is not asked about"),
    ("ssl_trusted_certificate", "only `ssl_client_certificate` says who may have signed"),
    ("ssl_verify_depth", "all chains of a usual length are taken"),
    ("ssl_reject_handshake", "the first certificate serves all other names"),
    ("ssl_engine", "keys are files"),
    ("sub_filter", "bodies stay as they are"),
    ("brotli", "see `http_compression`"),
    ("limit_rate", "see `limits.server_rate` of the route, which is about WebSockets"),
    ("stream", "this is no HTTP: wsluice proxies WebSockets and HTTP"),
    ("mail", "this is no HTTP: wsluice proxies WebSockets and HTTP"),
    ("modsecurity", "wsluice looks at no content"),
    ("geo", "see `addresses` of a route"),
    ("split_clients", "see `weight` of endpoints, and `match.headers`"),
    ("sticky", "see `sticky` of the upstream, which needs a secret"),
    ("health_check", "see `health` of the upstream"),
];

/// Returns what becomes of a directive of this name.
pub(super) fn class(name: &str) -> Class {
    // In the order of how exactly a table names them.
    if KNOWN.contains(&name) {
        return Class::Known;
    }
    let begins = |list: &[&str]| list.iter().any(|begin| name == *begin || (family(begin) && name.starts_with(begin)));
    if begins(&GUARDS) || name.starts_with("access_by_lua") {
        return Class::Guard;
    }
    let specific = LOST.iter().filter(|(begin, _)| *begin != "proxy_");
    if let Some((_, why)) = specific.clone().find(|(begin, _)| name.starts_with(begin))
        && !["proxy_cache_bypass", "proxy_ssl_verify_depth"].contains(&name)
    {
        return Class::Lost(why);
    }
    if begins(&NEEDLESS) {
        return Class::Needless;
    }
    Class::Lost("wsluice has no counterpart")
}

/// Whether a word of a table stands for all names that begin so.
fn family(begin: &str) -> bool {
    begin.ends_with('_')
        || [
            "auth_jwt",
            "secure_link",
            "access_by_lua",
            "proxy_buffer",
            "proxy_next_upstream",
            "resolver",
            "keepalive",
            "sendfile",
            "open_file_cache",
            "http2",
            "http3",
            "tcp_no",
            "aio",
            "auth_digest",
            "auth_ldap",
            "auth_pam",
            "auth_gss",
            "auth_oidc",
            "directio",
        ]
        .contains(&begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directive_has_one_class() {
        for (name, right) in [
            ("proxy_pass", Class::Known),
            ("proxy_buffering", Class::Needless),
            ("proxy_cache_bypass", Class::Needless),
            ("proxy_cache", Class::Lost("wsluice caches nothing")),
            ("proxy_cache_valid", Class::Lost("wsluice caches nothing")),
            ("proxy_ssl_server_name", Class::Needless),
            ("ssl_ciphers", Class::Needless),
            ("ssl_crl", Class::Lost("revocation lists are not read")),
            ("auth_jwt_key_file", Class::Guard),
            ("access_by_lua_block", Class::Guard),
            ("limit_except", Class::Guard),
            ("keepalive_timeout", Class::Needless),
            ("user", Class::Needless),
            ("userid", Class::Lost("wsluice has no counterpart")),
            ("frobnicate", Class::Lost("wsluice has no counterpart")),
            ("proxy_headers_hash_max_size", Class::Needless),
        ] {
            assert_eq!(class(name), right, "{name}");
        }
    }
}
