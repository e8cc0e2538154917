//! What a server streams of its log, and what it is told of it
//! (<https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-START-REPLICATION>).

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use dms_core::clock::now;
use dms_core::{Error, ErrorKind, Result};
use postgres_protocol::message::backend::{COPY_DATA_TAG, COPY_DONE_TAG, Header, Message};
use postgres_protocol::message::frontend::CopyData;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::lsn::Lsn;
use super::walsender::{Socket, broken, refused};
use crate::postgres::copy::EPOCH_MICROS;

/// How often the server is told what is confirmed, at the most and at the least.
const FEEDBACK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How long the server may take to hear the last word.
const GOODBYE: Duration = Duration::from_secs(1);

/// Room for what is read at once. There is more only while one message is larger.
const ROOM: usize = 1 << 18;

/// Tag and length of a message; then the kind of what is streamed, two places and a time.
const HEADER: usize = 5;
const XLOG_HEADER: usize = 1 + 3 * size_of::<u64>();

const STREAM: &str = "the stream of changes broke";

/// A part of the stream.
pub(super) enum Streamed {
    /// A message of the plugin.
    Message(BytesMut),
    /// Nothing of the log before this place is left to be sent.
    KeepAlive(Lsn),
}

/// The stream of a server's log. Dropped, it tells the server what is confirmed, and closes.
pub(super) struct Stream {
    socket: ReadHalf<Socket>,
    received: BytesMut,
    /// How much came with the last read.
    pub(super) last_read: usize,
    /// Has the server be answered at once.
    answer: mpsc::Sender<()>,
}

impl Stream {
    /// Takes over a socket on which a stream has begun; `confirmed` says which place of the log the
    /// server need not send again.
    pub(super) fn new(socket: Socket, received: BytesMut, confirmed: watch::Receiver<u64>) -> Self {
        let (socket, write) = tokio::io::split(socket);
        let (answer, asked) = mpsc::channel(1);
        tokio::spawn(feedback(write, confirmed, asked));
        Self { socket, received, last_read: 0, answer }
    }

    /// What has come; `None` if nothing whole is left.
    ///
    /// # Errors
    /// What the server says; `Connection` if it ended the stream.
    pub(super) fn take(&mut self) -> Result<Option<Streamed>> {
        loop {
            let Some((tag, length)) = self.head()? else { return Ok(None) };
            if self.received.len() < length {
                return Ok(None);
            }
            match tag {
                COPY_DATA_TAG => {
                    let mut message = self.received.split_to(length);
                    message.advance(HEADER);
                    if length > ROOM {
                        // Both halves would keep the whole as long as either is there.
                        self.received = BytesMut::from(self.received.as_ref());
                    }
                    if let Some(streamed) = self.read(message)? {
                        return Ok(Some(streamed));
                    }
                }
                COPY_DONE_TAG => return Err(ended()),
                _ => {
                    let message = Message::parse(&mut self.received);
                    match message.map_err(|error| broken(&error, STREAM))? {
                        Some(Message::ErrorResponse(said)) => return Err(refused(&said, STREAM)),
                        Some(Message::NoticeResponse(_) | Message::ParameterStatus(_)) => {}
                        _ => return Err(ended()),
                    }
                }
            }
        }
    }

    /// Waits until more has come. Dropped before, nothing is lost.
    ///
    /// # Errors
    /// `Connection`.
    pub(super) async fn wait(&mut self) -> Result<()> {
        let missing = match self.head()? {
            Some((_, length)) => length.saturating_sub(self.received.len()),
            None => HEADER,
        };
        self.received.reserve(missing.max(ROOM));
        match self.socket.read_buf(&mut self.received).await {
            Ok(0) => Err(ended()),
            Ok(read) => {
                self.last_read = read;
                Ok(())
            }
            Err(error) => Err(broken(&error, STREAM)),
        }
    }

    /// The tag of the next message, and its length with the tag.
    fn head(&self) -> Result<Option<(u8, usize)>> {
        let header = Header::parse(&self.received).map_err(|error| broken(&error, STREAM))?;
        Ok(header.map(|header| {
            let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
            (header.tag(), length.saturating_add(1))
        }))
    }

    fn read(&self, mut message: BytesMut) -> Result<Option<Streamed>> {
        let cut =
            || Error::new(ErrorKind::Corrupt, "a message of the server's stream of changes is cut");
        match message.first() {
            Some(b'w') => {
                if message.len() < XLOG_HEADER {
                    return Err(cut());
                }
                message.advance(XLOG_HEADER);
                Ok(Some(Streamed::Message(message)))
            }
            Some(b'k') => {
                message.advance(1);
                let place = message.try_get_u64().map_err(|_| cut())?;
                message.try_get_i64().map_err(|_| cut())?;
                if message.try_get_u8().map_err(|_| cut())? != 0 {
                    // One answer is enough if one is due already.
                    let _ = self.answer.try_send(());
                }
                Ok(Some(Streamed::KeepAlive(Lsn(place))))
            }
            Some(_) => Ok(None),
            None => Err(cut()),
        }
    }
}

fn ended() -> Error {
    let message = format!("{STREAM}: the server ended it");
    Error::new(ErrorKind::Connection, message).transient()
}

/// Tells the server what is confirmed until the stream is gone: also while its consumer takes its
/// time, since a server takes a client for lost that says nothing. Where this fails, the stream's
/// other half breaks too.
async fn feedback(
    mut socket: WriteHalf<Socket>,
    mut confirmed: watch::Receiver<u64>,
    mut asked: mpsc::Receiver<()>,
) {
    loop {
        let place = *confirmed.borrow_and_update();
        if tell(&mut socket, place).await.is_err() {
            return;
        }
        let told = Instant::now();
        tokio::select! {
            asked = asked.recv() => if asked.is_none() {
                break;
            },
            () = sleep_until(told + FEEDBACK.1) => {}
            () = async {
                sleep_until(told + FEEDBACK.0).await;
                if confirmed.changed().await.is_err() {
                    // Nobody confirms any more.
                    std::future::pending::<()>().await;
                }
            } => {}
        }
    }
    let place = *confirmed.borrow();
    let _ = timeout(GOODBYE, async {
        tell(&mut socket, place).await?;
        socket.shutdown().await
    })
    .await;
}

/// A standby's status update: written, flushed and applied are one here.
async fn tell(socket: &mut WriteHalf<Socket>, place: u64) -> io::Result<()> {
    let mut status = BytesMut::new();
    status.put_u8(b'r');
    for _ in 0..3 {
        status.put_u64(place);
    }
    status.put_i64(now().saturating_sub(EPOCH_MICROS));
    // No answer is asked for.
    status.put_u8(0);
    let mut out = BytesMut::new();
    CopyData::new(status)?.write(&mut out);
    socket.write_all(&out).await?;
    socket.flush().await
}
