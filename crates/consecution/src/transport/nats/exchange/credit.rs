//! Flow control: counts, at either end of a body, how much of it may be in flight.
//!
//! The receiver gives credit in bytes; each frame costs its bytes and
//! [`FRAME_OVERHEAD_BYTES`].

/// The largest piece of a body in one frame. The server reads 64 KiB at a time, and
/// allocates memory for each message that extends beyond that: with frames of 128 KiB, which
/// would be cheapest for us, a transfer took a third longer.
pub(crate) const FRAME_BYTES_MAX: usize = 32 * 1024;

/// The cost of a frame beside its bytes, about what a message takes in memory. It bounds the
/// number of tiny frames in flight.
pub(crate) const FRAME_OVERHEAD_BYTES: u64 = 512;

/// The largest window of one body: sixteen of the largest frames, so that two quick sides
/// do not wait for each other.
pub(crate) const WINDOW_BYTES: u64 = 16 * (FRAME_BYTES_MAX as u64 + FRAME_OVERHEAD_BYTES);

/// The most bytes in flight to one connection, over all calls. What a slow receiver does not
/// take waits in the server, which closes a connection with more than 64 MiB waiting (its
/// `max_pending`); this is half of that.
pub(crate) const CONNECTION_WINDOW_BYTES: u64 = 32 * 1024 * 1024;

/// The smallest window of one body: one of the largest frames, nearly.
pub(crate) const WINDOW_BYTES_MIN: u64 = 32 * 1024;

/// The window for the body of one more call while `calls` are in flight.
pub(crate) fn window(calls: usize) -> u64 {
    let share = CONNECTION_WINDOW_BYTES / (calls.max(1) as u64);
    share.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES)
}

/// The window for standard error. It is small, because people read it.
pub(crate) const STDERR_WINDOW_BYTES: u64 = 64 * 1024;

/// Credit is capped at 1 TiB, so that no number from outside overflows the count.
const CREDIT_BYTES_MAX: u64 = 1 << 40;

/// The sending end of a body.
#[derive(Debug)]
pub(crate) struct Outgoing {
    credit: u64,
    /// The most credit that there has been at a time.
    window: u64,
    /// It has ended, was cut off, or is no longer read.
    pub(crate) is_over: bool,
}

/// The receiving end of a body.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// How much the other side may still send.
    credit: u64,
    /// How much has been read and not yet given back as credit.
    owed: u64,
    window: u64,
    pub(crate) is_over: bool,
    /// It is no longer read, and the other side was told.
    pub(crate) is_closed: bool,
}

impl Outgoing {
    pub(crate) fn new(credit: u64) -> Outgoing {
        let credit = credit.min(CREDIT_BYTES_MAX);
        Outgoing {
            credit,
            window: credit,
            is_over: false,
        }
    }

    /// The most bytes for the next frame. 0 if little credit is left: more comes once the
    /// receiver has read what is in flight, and until then a body must not be sent in ever
    /// smaller frames.
    pub(crate) fn room(&self) -> usize {
        let least = (self.window / 4).min(FRAME_OVERHEAD_BYTES + FRAME_BYTES_MAX as u64);
        if self.is_over || self.credit < least {
            return 0;
        }
        let room = self.credit.saturating_sub(FRAME_OVERHEAD_BYTES);
        usize::try_from(room).map_or(FRAME_BYTES_MAX, |room| room.min(FRAME_BYTES_MAX))
    }

    /// A frame with so many bytes is sent.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_sub(cost(bytes));
    }

    /// The receiver allows so many bytes more.
    pub(crate) fn grant(&mut self, credit: u64) {
        self.credit = self.credit.saturating_add(credit).min(CREDIT_BYTES_MAX);
        self.window = self.window.max(self.credit);
    }
}

impl Incoming {
    pub(crate) fn new(window: u64) -> Incoming {
        Incoming {
            credit: window,
            owed: 0,
            window,
            is_over: false,
            is_closed: false,
        }
    }

    /// A frame with so many bytes has come.
    ///
    /// # Errors
    /// What the other side did wrong by sending it.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.is_not_over()?;
        let left = self.credit.checked_sub(cost(bytes));
        self.credit = left.ok_or("it sent more than it may")?;
        Ok(())
    }

    /// Its end has come.
    ///
    /// # Errors
    /// As [`Incoming::take`].
    pub(crate) fn finish(&mut self) -> Result<(), &'static str> {
        self.is_not_over()?;
        self.is_over = true;
        Ok(())
    }

    fn is_not_over(&self) -> Result<(), &'static str> {
        match self.is_over {
            true => Err("it sent more after its end"),
            false => Ok(()),
        }
    }

    /// So many bytes of a frame were read: the credit to give back now, if any. It is given
    /// in large pieces, because one message for each frame would cost more than the data.
    pub(crate) fn consumed(&mut self, bytes: usize) -> Option<u64> {
        self.owed += cost(bytes);
        if self.is_over || self.is_closed || self.owed < self.window / 4 {
            return None;
        }
        let credit = std::mem::take(&mut self.owed);
        self.credit += credit;
        Some(credit)
    }
}

/// The cost of a frame with so many bytes.
pub(crate) fn cost(bytes: usize) -> u64 {
    FRAME_OVERHEAD_BYTES + bytes as u64
}
