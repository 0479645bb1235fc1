//! Reads the ticks that the kernel side fills (`g211s_ebpf::series`). Must not know what they are for.

use std::ops::Range;

use g211s_ebpf::series::{PAGE_BITS, PAGES, Page, Tick, page_of, place_of};

use super::{BpfError, Pod, Session, error::failed};

impl Session {
    /// A target's ticks of these numbers, summed over CPUs, a tick without waits included. The caller asks for
    /// no more than the kernel side keeps (`PAGES` pages), and for none that is still to change.
    ///
    /// # Errors
    /// [`BpfError`] if the map cannot be read.
    pub fn ticks(&self, target: u8, numbers: Range<u64>) -> Result<Vec<Tick>, BpfError> {
        let mut ticks: Vec<Tick> = numbers.clone().map(|n| Tick::new(n as u32)).collect();
        let pages = numbers.start >> PAGE_BITS..=numbers.end.saturating_sub(1) >> PAGE_BITS;
        for page in pages.filter(|_| !numbers.is_empty()) {
            let first = page << PAGE_BITS;
            let key = u32::from(target) * PAGES + page_of(first);
            let values =
                self.series.get(&key, 0).map_err(|e| failed("reading the waits by time", &e))?;
            let here = first.max(numbers.start)..(first + (1 << PAGE_BITS)).min(numbers.end);
            for n in here {
                let sum = &mut ticks[(n - numbers.start) as usize];
                values.iter().for_each(|Pod(page)| add(sum, page, n));
            }
        }
        Ok(ticks)
    }
}

/// Adds what one CPU has of a tick, if it has anything.
fn add(sum: &mut Tick, page: &Page, n: u64) {
    let tick = &page.ticks[place_of(n)];
    if tick.stamp == n as u32 {
        sum.waits += tick.waits;
        sum.begun += tick.begun;
        sum.ended += tick.ended;
        sum.waited_ns += tick.waited_ns;
        sum.within_ns += tick.within_ns;
    }
}
