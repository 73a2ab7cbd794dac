//! How much of a body may be under way, counted at either end of it.

/// The largest piece of a body in one frame. The server reads 64 KiB at a time,
/// and allocates memory for each message that is not all in what it has read:
/// with frames of 128 KiB, which are cheapest for us, it took a third longer.
pub(crate) const FRAME_BYTES_MAX: usize = 32 * 1024;

/// What a frame costs beside its bytes, so that the number of tiny frames under
/// way is bounded as well: about what a message takes in memory.
pub(crate) const FRAME_OVERHEAD_BYTES: u64 = 512;

/// How much of one body may be under way: sixteen of the largest frames, so that
/// neither side waits for the other where both are quick.
pub(crate) const WINDOW_BYTES: u64 = 16 * (FRAME_BYTES_MAX as u64 + FRAME_OVERHEAD_BYTES);

/// How much may be under way to one connection, of all calls together. What a
/// receiver is slow to take waits in the server, which cuts off whoever lets
/// more than 64 MiB wait (its `max_pending`).
pub(crate) const CONNECTION_WINDOW_BYTES: u64 = 32 * 1024 * 1024;

/// The least that makes sense for one body.
pub(crate) const WINDOW_BYTES_MIN: u64 = 32 * 1024;

/// The window for one more body where so many calls are under way.
pub(crate) fn window(calls: usize) -> u64 {
    let share = CONNECTION_WINDOW_BYTES / (calls.max(1) as u64);
    share.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES)
}

/// How much of standard error may be under way; it is read by people.
pub(crate) const STDERR_WINDOW_BYTES: u64 = 64 * 1024;

/// Credit beyond this means nothing.
const CREDIT_BYTES_MAX: u64 = 1 << 40;

/// A body that is sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    credit: u64,
    /// The most credit that there was.
    window: u64,
    /// It has ended, was cut off, or is not read any more.
    pub(crate) is_over: bool,
}

/// A body that is received.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// What the other side may still send.
    credit: u64,
    /// What has been read and not yet given back as credit.
    owed: u64,
    window: u64,
    pub(crate) is_over: bool,
    /// It is not read any more, and the other side was told.
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

    /// None where little is left: more comes as soon as what is under way is
    /// read, and a body must not fall into ever smaller frames until then.
    pub(crate) fn room(&self) -> usize {
        let least = (self.window / 4).min(FRAME_OVERHEAD_BYTES + FRAME_BYTES_MAX as u64);
        if self.is_over || self.credit < least {
            return 0;
        }
        let room = self.credit.saturating_sub(FRAME_OVERHEAD_BYTES);
        usize::try_from(room).map_or(FRAME_BYTES_MAX, |room| room.min(FRAME_BYTES_MAX))
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_sub(cost(bytes));
    }

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

    /// So much has come.
    ///
    /// # Errors
    /// It must not come: what the other side did wrong.
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

    /// Credit is given back in large pieces: a message each would cost more than
    /// the data.
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

/// What a frame with so many bytes costs.
pub(crate) fn cost(bytes: usize) -> u64 {
    FRAME_OVERHEAD_BYTES + bytes as u64
}
