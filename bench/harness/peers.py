"""Configuration of HAProxy and nginx that does, as far as they can, what a pair of sidecars does.

What is the same: a listener of the client's pod on loopback, mutual TLS 1.3 with P-256 certificates between the pods, both
sides verified against the root and a name, kept connections, the server's application on loopback, two threads.
What they do not do: look at SPIFFE names (they compare DNS name and CN), authorize by rules, count per route and peer, retry by
policy, and take configuration from a control plane. nginx speaks HTTP/2 to servers for gRPC alone.
"""
import resource

from .system import run

# HAProxy refuses to start unless it may have two descriptors for each connection, and some.
MAX_CONNECTIONS = min(20_000, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500) // 2)

# Where the client's application finds its proxy, and where the server's proxy awaits it, by protocol.
CLIENT_PORTS = {"http1": 9001, "http2": 9002, "grpc": 9003, "tcp": 9004}
SERVER_PORTS = {"http1": 15443, "http2": 15444, "grpc": 15445, "tcp": 15446}
# Where the server's application is.
APP_PORTS = {"http1": 8080, "http2": 8081, "grpc": 8083, "tcp": 8084}


def certificates(directory):
    """A root, and leaves for client and server, P-256."""
    def ssl(*args):
        run("openssl", *args, cwd=directory)
    ssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key")
    ssl("req", "-x509", "-new", "-key", "ca.key", "-days", "2", "-subj", "/O=bench", "-out", "ca.crt")
    for name in ["client", "server"]:
        ssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        ssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}.bench", "-out", f"{name}.csr")
        (directory / "ext").write_text(f"subjectAltName=DNS:{name}.bench\nextendedKeyUsage=serverAuth,clientAuth\n")
        ssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "ext", "-out", f"{name}.crt")
        pem = (directory / f"{name}.crt").read_text() + (directory / f"{name}.key").read_text()
        (directory / f"{name}.pem").write_text(pem)


def haproxy(role, server, certs, log=False):
    """One side of a pair, or a plain proxy: in the client's pod (`hop`), or in its own (`gateway`)."""
    lines = ["global", " nbthread 2", f" maxconn {MAX_CONNECTIONS}", f" stats socket {certs}/{role}-{server}.sock",
             " ssl-default-bind-options ssl-min-ver TLSv1.3", " ssl-default-server-options ssl-min-ver TLSv1.3",
             " log stdout format raw local0" if log else "", "defaults", " timeout connect 5s", " timeout client 1h", " timeout server 1h",
             " log global" if log else "", " option http-keep-alive", " http-reuse always"]
    for protocol in CLIENT_PORTS:
        mode = "tcp" if protocol == "tcp" else "http"
        lines += [f"frontend {protocol}", f" mode {mode}", f" option {mode}log" if log else "", f" default_backend to-{protocol}",
                  *haproxy_bind(role, protocol, certs),
                  f"backend to-{protocol}", f" mode {mode}", " retries 2", haproxy_server(role, protocol, server, certs)]
    return "\n".join(line for line in lines if line) + "\n"


def haproxy_bind(role, protocol, certs):
    http2 = protocol in ["http2", "grpc"]
    if role != "server":
        address = "" if role == "gateway" else "127.0.0.1"
        return [f" bind {address}:{CLIENT_PORTS[protocol]}" + (" proto h2" if http2 else "")]
    alpn = " alpn h2" if http2 else ""
    check = "{ ssl_c_s_dn(cn) -m str client.bench }"
    refuse = f" tcp-request content reject unless {check}" if protocol == "tcp" else f" http-request deny unless {check}"
    return [f" bind :{SERVER_PORTS[protocol]} ssl crt {certs}/server.pem ca-file {certs}/ca.crt verify required{alpn}", refuse]


def haproxy_server(role, protocol, server, certs):
    http2 = protocol in ["http2", "grpc"]
    if role == "client":
        alpn = " alpn h2" if http2 else ""
        return (f" server next {server}:{SERVER_PORTS[protocol]} ssl crt {certs}/client.pem ca-file {certs}/ca.crt verify required"
                f" verifyhost server.bench sni str(server.bench){alpn}")
    host = "127.0.0.1" if role == "server" else server
    return f" server next {host}:{APP_PORTS[protocol]}" + (" proto h2" if http2 else "")


def nginx(role, server, certs, log=False):
    """As `haproxy`; without the protocol http2."""
    state = f"{certs}/nginx-{role}-{server}"
    access = "access_log /dev/stdout combined;" if log else "access_log off;"
    paths = " ".join(f"{kind}_temp_path {state}-{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    return f"""load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; worker_processes 2; pid {state}.pid; error_log stderr error; user root;
events {{ worker_connections {2 * MAX_CONNECTIONS}; }}
http {{
  {access} {paths} keepalive_requests 1000000000; keepalive_timeout 1h; client_max_body_size 0;
  {nginx_http(role, server, certs)}
  {nginx_grpc(role, server, certs)}
}}
stream {{ {nginx_tcp(role, server, certs)} }}
"""


def nginx_tls(kind, certs):
    """Directives of one side of a TLS connection: `ssl` of who accepts, `proxy_ssl` or `grpc_ssl` of who connects."""
    own = "server" if kind == "ssl" else "client"
    common = f"{kind}_certificate {certs}/{own}.crt; {kind}_certificate_key {certs}/{own}.key; {kind}_protocols TLSv1.3;"
    if kind == "ssl":
        return f"{common} ssl_client_certificate {certs}/ca.crt; ssl_verify_client on;"
    return (f"{common} {kind}_trusted_certificate {certs}/ca.crt; {kind}_verify on; {kind}_name server.bench;"
            f" {kind}_server_name on; {kind}_session_reuse on;")


def nginx_listen(role, protocol, more=""):
    if role == "server":
        return f"listen {SERVER_PORTS[protocol]} ssl{more};"
    address = "" if role == "gateway" else "127.0.0.1:"
    return f"listen {address}{CLIENT_PORTS[protocol]}{more};"


def nginx_next(role, protocol, server):
    return {"client": f"{server}:{SERVER_PORTS[protocol]}", "server": f"127.0.0.1:{APP_PORTS[protocol]}"}.get(role, f"{server}:{APP_PORTS[protocol]}")


CHECK = 'if ($ssl_client_s_dn != "CN=client.bench") { return 403; }'


def nginx_http(role, server, certs):
    scheme, tls = ("https", nginx_tls("proxy_ssl", certs)) if role == "client" else ("http", "")
    guard = nginx_tls("ssl", certs) + CHECK if role == "server" else ""
    return f"""upstream next {{ server {nginx_next(role, "http1", server)}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ {nginx_listen(role, "http1", " backlog=4096")} {guard} {tls}
    location / {{ proxy_pass {scheme}://next; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}"""


def nginx_grpc(role, server, certs):
    scheme, tls = ("grpcs", nginx_tls("grpc_ssl", certs)) if role == "client" else ("grpc", "")
    guard = nginx_tls("ssl", certs) + CHECK if role == "server" else ""
    return f"""upstream next-grpc {{ server {nginx_next(role, "grpc", server)}; keepalive 64; keepalive_requests 1000000000; }}
  server {{ {nginx_listen(role, "grpc", " http2")} {guard} {tls} http2_max_concurrent_streams 1024;
    location / {{ grpc_pass {scheme}://next-grpc; grpc_read_timeout 1h; grpc_send_timeout 1h; }} }}"""


def nginx_tcp(role, server, certs):
    tls = "proxy_ssl on; " + nginx_tls("proxy_ssl", certs) if role == "client" else ""
    guard = nginx_tls("ssl", certs) if role == "server" else ""
    return f"""server {{ {nginx_listen(role, "tcp", " backlog=4096")} {guard} {tls}
    proxy_pass {nginx_next(role, "tcp", server)}; proxy_timeout 1h; proxy_half_close on; }}"""


def backend(directory, name):
    """nginx as the application: 1 KB for every request, HTTP/1.1 on one port and HTTP/2 on the other, told of nothing."""
    body = "x" * 1024
    paths = " ".join(f"{kind}_temp_path {directory}/{name}-{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    return f"""daemon off; worker_processes 1; pid {directory}/{name}.pid; error_log stderr error; user root;
events {{ worker_connections {2 * MAX_CONNECTIONS}; }}
http {{
  access_log off; {paths} keepalive_requests 1000000000; keepalive_timeout 1h;
  server {{ listen {APP_PORTS["http1"]} backlog=4096; location / {{ return 200 "{body}"; }} }}
  server {{ listen {APP_PORTS["http2"]} http2; location / {{ return 200 "{body}"; }} }}
}}
"""
