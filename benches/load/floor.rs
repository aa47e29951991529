//! The floor: what the kernel alone charges for passing bytes from one connection to another.
//!
//! One thread, one epoll instance, one receive and one send for each readiness, one 256-KiB buffer for everybody. With
//! TLS, rustls is put in between as it comes, AES and tickets included. It runs as a process of its own, this executable
//! started again, so that it is measured like the others.
//!
//! It is not a proxy: it reads no HTTP and no frames, checks and logs nothing, counts nothing, has no timers, connects
//! to one server only and waits for that, and ends both connections when either ends. What a proxy costs above this is
//! what being one costs it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{SocketFlags, accept_with};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use slab::Slab;
use socket2::{Domain, Socket, Type};

/// The first argument that makes this executable the floor.
pub const COMMAND: &str = "floor";

const BUFFER: usize = 256 * 1024;
const EVENTS: usize = 512;

/// Tokens of the listeners; a connection's is twice its place, plus one at the server's side.
const PLAIN: u64 = u64::MAX;
const TLS: u64 = u64::MAX - 1;

/// Its command line.
#[derive(Parser)]
struct Args {
    #[arg(long)]
    plain: u16,
    #[arg(long)]
    tls: u16,
    #[arg(long)]
    backend: SocketAddr,
    #[arg(long)]
    cert: PathBuf,
    #[arg(long)]
    key: PathBuf,
}

pub fn prepare(command: &mut Command, plain: u16, tls: u16, backend: SocketAddr, cert: PathBuf, key: PathBuf) {
    command.arg(COMMAND).arg("--plain").arg(plain.to_string()).arg("--tls").arg(tls.to_string());
    command.arg("--backend").arg(backend.to_string()).arg("--cert").arg(cert).arg("--key").arg(key);
}

/// Forwards until the process is ended. `arguments` begin with [`COMMAND`].
pub fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let args = Args::parse_from(arguments);
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from_pem_file(&args.cert)?], PrivateKeyDer::from_pem_file(&args.key)?)?;
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    let (plain, tls) = (listen(args.plain)?, listen(args.tls)?);
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &plain, EventData::new_u64(PLAIN), EventFlags::IN)?;
    epoll::add(&epoll, &tls, EventData::new_u64(TLS), EventFlags::IN)?;
    let (mut floor, config) = (Floor { epoll, pairs: Slab::new(), backend: args.backend }, Arc::new(config));
    let (mut events, mut scratch) =
        (Vec::with_capacity(EVENTS), Scratch { received: vec![0; BUFFER], plain: Vec::new() });
    loop {
        events.clear();
        epoll::wait(&floor.epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for Event { flags, data } in events.iter().copied() {
            match data.u64() {
                PLAIN => floor.accept(&plain, None)?,
                TLS => floor.accept(&tls, Some(ServerConnection::new(Arc::clone(&config))?))?,
                token => floor.forward(token, flags, &mut scratch),
            }
        }
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // What is accepted has it too.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(4096).context("listening")?;
    Ok(socket.into())
}

/// What all connections read into.
struct Scratch {
    received: Vec<u8>,
    plain: Vec<u8>,
}

struct Floor {
    epoll: rustix::fd::OwnedFd,
    pairs: Slab<Pair>,
    backend: SocketAddr,
}

/// Two connections.
struct Pair {
    client: Peer,
    server: Peer,
    tls: Option<Box<ServerConnection>>,
}

struct Peer {
    socket: TcpStream,
    /// What it has not yet taken; until it has, nothing more is read from the other.
    unsent: Vec<u8>,
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, tls: Option<ServerConnection>) -> Result<()> {
        let client = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC).context("accepting")?;
        let (client, server) = (TcpStream::from(client), TcpStream::connect(self.backend).context("connecting")?);
        server.set_nonblocking(true)?;
        server.set_nodelay(true)?;
        let [client, server] = [client, server].map(|socket| Peer { socket, unsent: Vec::new() });
        let pair = self.pairs.insert(Pair { client, server, tls: tls.map(Box::new) });
        let (token, pair) = (pair as u64 * 2, &self.pairs[pair]);
        epoll::add(&self.epoll, &pair.client.socket, EventData::new_u64(token), EventFlags::IN)?;
        epoll::add(&self.epoll, &pair.server.socket, EventData::new_u64(token + 1), EventFlags::IN)?;
        Ok(())
    }

    /// A socket can be read, or written to again.
    fn forward(&mut self, token: u64, flags: EventFlags, scratch: &mut Scratch) {
        let (place, at_server) = ((token / 2) as usize, token % 2 == 1);
        // The other socket's event, in the same batch, may have been the end.
        let Some(pair) = self.pairs.get_mut(place) else { return };
        let before = pair.full();
        let mut result = Ok(());
        if flags.contains(EventFlags::OUT) {
            result = if at_server { pair.server.flush() } else { pair.flush_client() };
        }
        if flags != EventFlags::OUT && result.is_ok() && !before[usize::from(!at_server)] {
            result = if at_server { pair.downstream(scratch) } else { pair.upstream(scratch) };
        }
        let after = pair.full();
        if result.is_err() || before != after && self.watch(place, after).is_err() {
            self.pairs.remove(place);
        }
    }

    /// A socket is read unless the other is full, and written to if it is.
    fn watch(&self, place: usize, [client_full, server_full]: [bool; 2]) -> rustix::io::Result<()> {
        let Pair { client, server, .. } = &self.pairs[place];
        let sides = [(&client.socket, client_full, server_full), (&server.socket, server_full, client_full)];
        for (side, (socket, full, other_full)) in (0..).zip(sides) {
            let (mut flags, token) = (EventFlags::empty(), EventData::new_u64(place as u64 * 2 + side));
            flags.set(EventFlags::OUT, full);
            flags.set(EventFlags::IN, !other_full);
            epoll::modify(&self.epoll, socket, token, flags)?;
        }
        Ok(())
    }
}

/// Every error ends the pair, the end of a stream too.
impl Pair {
    /// Whether client and server have bytes to take.
    fn full(&self) -> [bool; 2] {
        let records = self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        [records || !self.client.unsent.is_empty(), !self.server.unsent.is_empty()]
    }

    fn upstream(&mut self, Scratch { received, plain }: &mut Scratch) -> io::Result<()> {
        let Some(mut bytes) = self.client.receive(received)? else { return Ok(()) };
        let Some(tls) = &mut self.tls else { return self.server.send(bytes) };
        plain.clear();
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes)?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let (start, more) = (plain.len(), state.plaintext_bytes_to_read());
            plain.resize(start + more, 0);
            tls.reader().read_exact(&mut plain[start..])?;
        }
        self.flush_client()?;
        self.server.send(plain)
    }

    fn downstream(&mut self, Scratch { received, .. }: &mut Scratch) -> io::Result<()> {
        let Some(bytes) = self.server.receive(received)? else { return Ok(()) };
        let Some(tls) = &mut self.tls else { return self.client.send(bytes) };
        tls.set_buffer_limit(None);
        tls.writer().write_all(bytes)?;
        self.flush_client()
    }

    /// rustls keeps the records that the client does not take.
    fn flush_client(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.client.flush() };
        while tls.wants_write() {
            match tls.write_tls(&mut self.client.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                other => other?,
            };
        }
        Ok(())
    }
}

impl Peer {
    /// One receive; `None` when there was nothing.
    fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.socket.read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => Ok(Some(&buffer[..len])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One send; what is not taken is kept.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = if self.unsent.is_empty() { self.try_write(bytes)? } else { 0 };
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        self.send(&unsent)
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }
}
