//! Runs rustls on bytes, without a socket; or our own record layer, if the connection came from another process.
//!
//! rustls gets one whole record at a time. So it is always known what it has seen; a record for which the reader has no
//! room stays encrypted; and no bytes after a handshake are lost in it.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, Error, ExtractedSecrets, ProtocolVersion};
use tokio::io::ReadBuf;

use super::super::state::{KeyUpdateAfterMove, Side};
use super::capture::{FirstSecrets, capturing};
use super::cipher::RECORD;
use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::record_layer::{Contents, Fault, RecordLayer};
use crate::net::pool::BufferSize;

/// The most bytes that a record of application data adds to its plaintext: header, explicit nonce and tag of TLS 1.2
/// (RFC 5288 §3), which are more than those of TLS 1.3.
const OVERHEAD: usize = 5 + 8 + 16;
/// Room for records that rustls puts before application data: its own KeyUpdate, and the answer to one.
const KEY_UPDATES: usize = 128;
/// The most plaintext encrypted at once: as many whole records as the largest buffer holds.
const BULK: usize = (BufferSize::Large.bytes() - KEY_UPDATES) / (RECORD + OVERHEAD) * RECORD;

/// The cost of a record besides its bytes, in bytes.
const RECORD_WORK: u32 = 64;
/// The work that takes one unit of a task's budget (tokio's `coop`), which has 128 a turn.
pub const WORK_PER_UNIT: u32 = 1024;
/// The most work done at once: 256 records, or 16 KiB of records without data for the reader.
const WORK_AT_ONCE: u32 = 16 * WORK_PER_UNIT;

/// rustls' connection of one side.
pub trait TlsConnection {
    /// The data that rustls keeps for this side.
    type Data;
    /// Whether with TLS 1.3 no peer waits for the last records of this side's handshake: the server's tickets.
    const LAST_FLIGHT_MAY_WAIT: bool;
    /// Which side this is.
    const SIDE: Side;

    /// See [`rustls::unbuffered`].
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Returns the state that both sides have.
    fn common(&self) -> &CommonState;

    /// Gives up the connection for its keys.
    ///
    /// # Errors
    /// Fails if the connection has failed, or its configuration does not allow it.
    fn into_secrets(self) -> Result<ExtractedSecrets, Error>;
}

impl TlsConnection for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const LAST_FLIGHT_MAY_WAIT: bool = true;
    const SIDE: Side = Side::Server;

    #[inline]
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_secrets(self) -> Result<ExtractedSecrets, Error> {
        Ok(self.dangerous_into_kernel_connection()?.0)
    }
}

impl TlsConnection for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const LAST_FLIGHT_MAY_WAIT: bool = false;
    const SIDE: Side = Side::Client;

    #[inline]
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_secrets(self) -> Result<ExtractedSecrets, Error> {
        Ok(self.dangerous_into_kernel_connection()?.0)
    }
}

/// What opens and seals the records of a connection.
pub(super) enum Records<C> {
    /// rustls, from the handshake on.
    Rustls {
        connection: C,
        /// Known with TLS 1.3 if the connection may move.
        secrets: Option<FirstSecrets>,
        /// Whether the connection may move to another process: its configuration says so.
        may_move: bool,
    },
    /// Our own record layer, since the connection came from another process.
    Moved(Box<RecordLayer>),
}

/// The state of one TLS connection.
pub struct Engine<C> {
    pub(super) records: Records<C>,
    /// Bytes from the socket.
    pub incoming: Incoming,
    /// Bytes to the socket.
    pub outgoing: Outgoing,
    /// Plaintext that the reader had no room for: less than a record.
    pub(super) rest: Vec<u8>,
    /// How much of `rest` has been read.
    pub(super) rest_read: usize,
    /// The permanent error that ended it. If it is not closed, only reading has failed.
    pub(super) failed: Option<Error>,
    pub(super) peer_closed: bool,
    pub(super) closed: bool,
    /// Work done for the peer and not yet charged to the task's budget.
    pub(super) work: u32,
}

impl<C: TlsConnection> Engine<C> {
    /// Begins with the bytes that have already arrived.
    pub fn new(connection: C, incoming: Incoming, may_move: bool) -> Engine<C> {
        Engine::of(Records::Rustls { connection, secrets: None, may_move }, incoming)
    }

    pub(super) fn of(records: Records<C>, incoming: Incoming) -> Engine<C> {
        Engine {
            records,
            incoming,
            outgoing: Outgoing::default(),
            rest: Vec::new(),
            rest_read: 0,
            failed: None,
            peer_closed: false,
            closed: false,
            work: 0,
        }
    }

    /// Returns rustls' state of the connection; `None` if the connection came from another process.
    pub fn common(&self) -> Option<&CommonState> {
        match &self.records {
            Records::Rustls { connection, .. } => Some(connection.common()),
            Records::Moved(_) => None,
        }
    }

    /// Returns the negotiated version of TLS.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        match &self.records {
            Records::Rustls { connection, .. } => connection.common().protocol_version(),
            Records::Moved(layer) => Some(layer.suite().version()),
        }
    }

    /// Returns true if the peer has sent its close_notify, and all bytes before it were read.
    pub fn is_at_end(&self) -> bool {
        self.peer_closed && self.rest.is_empty()
    }

    /// Returns true if nothing more can be written: we have sent our close_notify, or failed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns true if a unit of the task's budget has been used up.
    pub fn owes(&self) -> bool {
        self.work >= WORK_PER_UNIT
    }

    /// Records that a unit was charged to the task's budget.
    pub fn pay(&mut self) {
        self.work -= WORK_PER_UNIT.min(self.work);
    }

    /// Continues the handshake as far as the available records allow. Returns true once it is done; the bytes after it
    /// stay untouched.
    ///
    /// # Errors
    /// Fails if the peer breaks the protocol or is refused; the alert is in `outgoing`.
    pub fn shake(&mut self) -> Result<bool, Error> {
        if !matches!(self.records, Records::Rustls { may_move: true, .. }) {
            return self.shake_on();
        }
        let (result, told) = capturing(|| self.shake_on());
        if let (Records::Rustls { secrets, .. }, Some(told)) = (&mut self.records, told) {
            *secrets = Some(told);
        }
        result
    }

    fn shake_on(&mut self) -> Result<bool, Error> {
        while self.common().is_some_and(CommonState::is_handshaking) {
            let whole = self.next_record(|_| debug_assert!(false, "application data in a handshake"))?;
            if !whole {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Decrypts records into `buf` until it is full, there are no more, or enough is done at once.
    ///
    /// # Errors
    /// Fails if the peer breaks the protocol; the alert is in `outgoing`. The bytes before the error are in `buf`, and
    /// the error is returned again once they have been read.
    #[inline]
    pub fn open(&mut self, buf: &mut ReadBuf<'_>) -> Result<(), Error> {
        if !self.rest.is_empty() {
            let amount = buf.remaining().min(self.rest.len() - self.rest_read);
            buf.put_slice(&self.rest[self.rest_read..self.rest_read + amount]);
            self.rest_read += amount;
            if self.rest_read == self.rest.len() {
                (self.rest, self.rest_read) = (Vec::new(), 0);
            }
        }
        self.end_if_used_up();
        while buf.remaining() > 0 && !self.peer_closed && !self.incoming.bytes().is_empty() && self.work < WORK_AT_ONCE
        {
            let mut rest = Vec::new();
            let whole = self.next_record(|plain| {
                let (now, later) = plain.split_at(plain.len().min(buf.remaining()));
                buf.put_slice(now);
                if !later.is_empty() {
                    rest.extend_from_slice(later);
                }
            });
            if !rest.is_empty() {
                self.rest = rest;
            }
            if !whole? {
                break;
            }
        }
        self.failed.as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Ends the reading of a connection whose key for writing is nearly used up and cannot change, while it can still be
    /// written to.
    fn end_if_used_up(&mut self) {
        if let Records::Moved(layer) = &self.records
            && layer.must_end()
            && self.failed.is_none()
        {
            self.failed = Some(KeyUpdateAfterMove.into());
        }
    }

    /// Opens the next record, and gives `plain` its contents. Returns false if it is not whole; what is not TLS is
    /// refused by its first bytes.
    fn next_record(&mut self, mut plain: impl FnMut(&[u8])) -> Result<bool, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let whole = self.incoming.record_end();
        let length = whole.map_or(0, |end| end - self.incoming.joined());
        let mut is_empty = true;
        let plain = |payload: &[u8]| {
            is_empty &= payload.is_empty();
            plain(payload);
        };
        match &self.records {
            Records::Rustls { .. } => self.open_by_rustls(whole, plain)?,
            Records::Moved(_) => self.open_moved(whole, plain)?,
        }
        // The reader's own work covers data for it; records without data, such as tickets and new keys, are charged
        // here.
        self.work = self.work.saturating_add(RECORD_WORK + if is_empty { length as u32 } else { 0 });
        if self.peer_closed {
            // Bytes after a close_notify are ignored (RFC 8446 §6.1).
            self.incoming.clear();
        }
        Ok(whole.is_some())
    }

    /// Gives rustls all bytes up to `whole`, the end of the record; all bytes if it is not whole.
    #[inline]
    fn open_by_rustls(&mut self, whole: Option<usize>, mut plain: impl FnMut(&[u8])) -> Result<(), Error> {
        let Records::Rustls { connection, .. } = &mut self.records else { return Ok(()) };
        let mut seen = whole.unwrap_or(self.incoming.bytes().len());
        loop {
            let UnbufferedStatus { discard, state, .. } = connection.process(self.incoming.front_mut(seen));
            let more = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        plain(record?.payload);
                    }
                    connection.common().wants_write()
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, &mut self.outgoing)?;
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // The data is in `outgoing`, in order.
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    true
                }
                // Early data is neither offered nor accepted; unknown future states are waited out.
                Ok(_) => false,
                Err(error) => return Err(self.fail(error)),
            };
            if whole.is_some() {
                self.incoming.consume(seen, discard);
                seen -= discard;
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn open_moved(&mut self, whole: Option<usize>, mut plain: impl FnMut(&[u8])) -> Result<(), Error> {
        let Records::Moved(layer) = &mut self.records else { return Ok(()) };
        let opened = match whole {
            Some(end) => layer.open(self.incoming.front_mut(end), &mut self.outgoing),
            None => RecordLayer::check_start(self.incoming.bytes()).map(|()| Contents::None).map_err(Fault::from),
        };
        match opened {
            Ok(Contents::Data(payload)) => plain(payload),
            Ok(Contents::None) => {}
            Ok(Contents::End) => self.peer_closed = true,
            Err(fault) => return Err(self.end_by(fault)),
        }
        if let Some(end) = whole {
            self.incoming.consume(end, end);
        }
        Ok(())
    }

    /// Ends the connection by a fault of our own record layer.
    #[cold]
    fn end_by(&mut self, fault: Fault) -> Error {
        match fault {
            Fault::Alert(alert, error) => {
                // An alert is all that can be lost.
                if let (Records::Moved(layer), false) = (&mut self.records, self.closed) {
                    let _ = layer.abort(alert, &mut self.outgoing);
                }
                self.fail(error)
            }
            Fault::Silent(error) => self.fail(error),
            Fault::NoSecret => {
                self.incoming.clear();
                self.failed = Some(KeyUpdateAfterMove.into());
                KeyUpdateAfterMove.into()
            }
        }
    }

    /// Ends the connection, and queues rustls' alert.
    #[cold]
    fn fail(&mut self, error: Error) -> Error {
        while let Records::Rustls { connection, .. } = &mut self.records
            && connection.common().wants_write()
        {
            // Alerts are sent before any received byte is processed.
            let Ok(ConnectionState::EncodeTlsData(data)) = connection.process(&mut []).state else { break };
            if encode(data, &mut self.outgoing).is_err() {
                break;
            }
        }
        self.incoming.clear();
        self.closed = true;
        self.failed = Some(error.clone());
        error
    }

    /// Encrypts `plain`, or as many whole records of it as the largest buffer holds, and appends them to `outgoing`.
    /// Returns how much.
    ///
    /// # Errors
    /// Fails if it failed before, or the keys are used up (TLS 1.2 cannot change them).
    #[inline]
    pub fn seal(&mut self, plain: &[u8]) -> Result<usize, Error> {
        let plain = &plain[..plain.len().min(BULK)];
        if let Records::Moved(layer) = &mut self.records {
            let sealed = layer.seal(plain, &mut self.outgoing);
            return sealed.map(|()| plain.len()).map_err(|fault| self.end_by(fault));
        }
        let mut size = plain.len() + plain.len().div_ceil(RECORD) * OVERHEAD + KEY_UPDATES;
        self.write(|traffic, outgoing| {
            loop {
                match traffic.encrypt(plain, outgoing.room(size)) {
                    Ok(count) => {
                        outgoing.add(count);
                        return Ok(plain.len());
                    }
                    Err(EncryptError::InsufficientSize(error)) if error.required_size > size => {
                        size = error.required_size;
                    }
                    Err(_) => return Err(Error::EncryptError),
                }
            }
        })
    }

    /// Appends a close_notify to `outgoing`, once.
    ///
    /// # Errors
    /// Fails if rustls has none.
    pub fn close(&mut self) -> Result<(), Error> {
        if self.closed {
            return Ok(());
        }
        if let Records::Moved(layer) = &mut self.records {
            self.closed = true;
            return layer.close(&mut self.outgoing).map_err(|fault| self.end_by(fault));
        }
        let result = self.write(|traffic, outgoing| {
            let count = traffic.queue_close_notify(outgoing.room(KEY_UPDATES)).map_err(|_| Error::EncryptError)?;
            outgoing.add(count);
            Ok(())
        });
        self.closed = true;
        result
    }

    /// Lets `put` write after rustls' own pending records.
    pub(super) fn write<R>(
        &mut self,
        put: impl FnOnce(&mut WriteTraffic<'_, C::Data>, &mut Outgoing) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let Records::Rustls { connection, .. } = &mut self.records else { return Err(Error::HandshakeNotComplete) };
        let result = loop {
            match connection.process(self.incoming.joined_mut()).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => break put(&mut traffic, &mut self.outgoing),
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    if let Err(error) = encode(data, &mut self.outgoing) {
                        break Err(error);
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(_) => break Err(Error::HandshakeNotComplete),
                Err(error) => break Err(error),
            }
        };
        result.map_err(|error| self.fail(error))
    }
}

/// Appends one of rustls' own records to `outgoing`.
fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Outgoing) -> Result<(), Error> {
    // It tells the size that it needs only if the room is too small.
    let mut size = 0;
    loop {
        let room = if size == 0 { &mut [][..] } else { outgoing.room(size) };
        match data.encode(room) {
            Ok(count) => {
                outgoing.add(count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(error)) if error.required_size > size => size = error.required_size,
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}
