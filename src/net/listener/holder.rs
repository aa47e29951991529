//! Finds the process that listens on an address in use; the kernel does not name it.
//!
//! Reads `/proc`: the inode of the listening socket, then the process that has it open. It is a guess for an error
//! message: without `/proc`, for a process of another user, or if it ends meanwhile, nothing is found.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::Address;

/// The most processes, and the most descriptors of each, that are searched: a listening socket is opened early, and a
/// proxy may have a million others.
const PROCESSES_MAX: usize = 20_000;
const DESCRIPTORS_MAX: usize = 4096;
/// How often it is looked for.
const LOOKS: usize = 3;
/// The state of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// The process that listens on an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The name of its program, at most 15 bytes.
    pub program: String,
    /// Whether it runs the same program as this process.
    pub is_same_program: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holder { pid, program, is_same_program } = self;
        write!(f, "process {pid} ({program})")?;
        if *is_same_program {
            write!(
                f,
                "; to replace it without refusing a connection, send it USR2 (`kill -USR2 {pid}`), to end it TERM"
            )?;
        }
        Ok(())
    }
}

/// Returns the process that listens on `address`, if it can be found and is not this one.
pub fn holder(address: &Address) -> Option<Holder> {
    // A table that changes while it is read may miss a line.
    (0..LOOKS).find_map(|_| look(address))
}

fn look(address: &Address) -> Option<Holder> {
    let inode = match address {
        Address::Tcp(address) => ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
            let table = fs::read_to_string(table).ok()?;
            table.lines().skip(1).find_map(|line| tcp_inode(line, *address))
        }),
        Address::Unix(path) => {
            let table = fs::read_to_string("/proc/net/unix").ok()?;
            table.lines().skip(1).find_map(|line| unix_inode(line, path))
        }
    }?;
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.take(PROCESSES_MAX).flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| has_open(*pid, &wanted)).filter(|pid| *pid != std::process::id())?;
    let program = program(&pid.to_string())?;
    let is_same_program = program_of_this_process() == Some(program.clone());
    Some(Holder { pid, program, is_same_program })
}

fn has_open(pid: u32, socket: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut targets = descriptors.take(DESCRIPTORS_MAX).flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.any(|target| target.as_os_str() == socket)
}

fn program(pid: &str) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().chars().filter(|c| !c.is_control()).collect())
}

fn program_of_this_process() -> Option<String> {
    program("self")
}

/// Returns the inode of a line of `/proc/net/tcp` or `tcp6`, if it is a listening socket that conflicts with `wanted`.
fn tcp_inode(line: &str, wanted: SocketAddr) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    let (state, inode) = (fields.nth(1)?, fields.nth(5)?);
    let ip = ip_of_table(ip)?;
    let is_same_port = u16::from_str_radix(port, 16).is_ok_and(|port| port == wanted.port());
    let is_same_ip = ip == wanted.ip() || ip.is_unspecified() || wanted.ip().is_unspecified();
    (state == LISTENING && is_same_port && is_same_ip).then(|| inode.parse().ok())?
}

/// Parses an address in hex; each 32 bits are in the byte order of this machine.
fn ip_of_table(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Some(IpAddr::from(bytes))
        }
        _ => None,
    }
}

/// Returns the inode of a line of `/proc/net/unix`, if its socket is at `path`.
fn unix_inode(line: &str, path: &Path) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(6);
    let inode = fields.next()?.parse().ok()?;
    (Path::new(fields.next()?) == path).then_some(inode)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_kernel_are_read() {
        let ours = u32::from_str_radix("0100007F", 16).unwrap().to_ne_bytes();
        let ip = IpAddr::from(ours);
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        let port = |port| SocketAddr::new(ip, port);
        assert_eq!(tcp_inode(line, port(8080)), Some(4711));
        assert_eq!(tcp_inode(line, port(8081)), None);
        assert_eq!(tcp_inode(line, "0.0.0.0:8080".parse().unwrap()), Some(4711));
        assert_eq!(tcp_inode(line, "10.1.2.3:8080".parse().unwrap()), None);
        assert_eq!(tcp_inode(&line.replace(" 0A ", " 01 "), port(8080)), None, "a connection does not listen");
        let six = line.replace("0100007F:", &format!("{}:", "0".repeat(32)));
        assert_eq!(tcp_inode(&six, "[::1]:8080".parse().unwrap()), Some(4711));
        let unix = "0000000000000000: 00000002 00000000 00010000 0001 01 815 /run/a.sock";
        assert_eq!(unix_inode(unix, Path::new("/run/a.sock")), Some(815));
        assert_eq!(unix_inode(unix, Path::new("/run/b.sock")), None);
        for odd in ["", "0: x", "0: 1:2 3 0A", "   0: 0100007F:1F90 00000000:0000 0A"] {
            assert_eq!((tcp_inode(odd, port(8080)), unix_inode(odd, Path::new("/"))), (None, None), "{odd}");
        }
    }

    #[test]
    fn a_second_process_of_the_same_program_is_told_how_to_replace_the_first() {
        let text = |is_same_program| Holder { pid: 7, program: "wsluice".into(), is_same_program }.to_string();
        assert_eq!(text(false), "process 7 (wsluice)");
        assert!(text(true).contains("`kill -USR2 7`"), "{}", text(true));
    }
}
