//! The threads of the CPU backend, and how one output is divided among the tasks of a parallel loop.
//!
//! No number depends on how work is divided: sums are divided by shape alone, and products may be cut to suit
//! the threads since each element is summed in the same order wherever it lies. Threads take the next task
//! from a counter, so which thread computes a task changes nothing either, and results are the same bits for
//! any number of threads.
#![allow(unsafe_code)]

use super::kernel::Kernel;
use super::matrix::tile_for;
use super::operands::Number;
use crate::host::Element;
use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// How often an idle thread looks for work before it sleeps: some tens of microseconds, the gap between two
/// ops.
const SPINS: usize = 2_000;

/// A caller's thread and its helpers, all of which run the same kernels.
pub(super) struct Team {
    pub(super) kernel: Kernel,
    /// The most rows and columns of a product's tile.
    pub(super) tile: [usize; 2],
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `threads` threads, the caller's included.
    pub(super) fn new(threads: usize, kernel: Kernel) -> Team {
        let shared = Arc::new(Shared::default());
        let helpers = (1..threads)
            .filter_map(|index| {
                let shared = shared.clone();
                let builder = std::thread::Builder::new().name(format!("cpu-{index}"));
                builder.spawn(move || shared.help()).ok()
            })
            .collect();
        Team { kernel, tile: tile_for(kernel, second_level_cache_bytes()), shared, helpers }
    }

    /// The number of threads, the caller's included.
    pub(super) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `task` once for each index below `tasks`, in any order, on all threads. Not to be called from a
    /// task.
    pub(super) fn each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks < 2 || self.helpers.is_empty() {
            return (0..tasks).for_each(task);
        }
        let task: &(dyn Fn(usize) + Sync) = &task;
        // SAFETY: only the lifetime changes. `Closing` keeps this call from ending, by return or by panic,
        // before the job is withdrawn and no helper is inside it.
        let task: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(task) };
        self.shared.open(Job { task, tasks });
        let closing = Closing(&self.shared);
        self.shared.take_tasks(Job { task, tasks });
        drop(closing);
        let panic = self.shared.lock().panic.take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// As `each`, with the pieces of one or several outputs handed to the tasks: piece i to task i.
    pub(super) fn each_piece<D: Divide>(&self, outputs: D, task: impl Fn(usize, D::Piece) + Sync) {
        let outputs = &outputs;
        // SAFETY: `each` gives each index to exactly one call.
        self.each(outputs.pieces(), |index| task(index, unsafe { outputs.piece(index) }));
    }
}

/// The size of one core's second-level cache, if the system tells. Speed depends on it, results do not.
fn second_level_cache_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok()?;
    Some(text.trim().strip_suffix('K')?.parse::<usize>().ok()? << 10)
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.generation.fetch_add(1, Ordering::Release);
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper's panic was already handed to the caller of `each`.
            let _ = helper.join();
        }
    }
}

#[derive(Clone, Copy)]
struct Job {
    task: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes helpers; `left` wakes the caller.
    wake: Condvar,
    left: Condvar,
    /// Copies of the state's fields that idle threads may spin on.
    generation: AtomicUsize,
    inside: AtomicUsize,
    next: AtomicUsize,
}

#[derive(Default)]
struct State {
    job: Option<Job>,
    asleep: usize,
    ended: bool,
    panic: Option<Box<dyn Any + Send>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn open(&self, job: Job) {
        let mut state = self.lock();
        self.next.store(0, Ordering::Relaxed);
        state.job = Some(job);
        self.generation.fetch_add(1, Ordering::Release);
        if state.asleep > 0 {
            self.wake.notify_all();
        }
    }

    fn take_tasks(&self, job: Job) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= job.tasks {
                return;
            }
            (job.task)(index);
        }
    }

    /// Takes tasks of one job after another until the team ends: what a helper thread runs.
    fn help(&self) {
        let mut seen = 0;
        loop {
            seen = self.await_generation(seen);
            let job = {
                let state = self.lock();
                if state.ended {
                    return;
                }
                let Some(job) = state.job else { continue };
                self.inside.fetch_add(1, Ordering::Relaxed);
                job
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| self.take_tasks(job)));
            let mut state = self.lock();
            if let Err(panic) = outcome {
                state.panic = Some(panic);
            }
            if self.inside.fetch_sub(1, Ordering::Release) == 1 {
                self.left.notify_one();
            }
        }
    }

    fn await_generation(&self, seen: usize) -> usize {
        for _ in 0..SPINS {
            let generation = self.generation.load(Ordering::Acquire);
            if generation != seen {
                return generation;
            }
            std::hint::spin_loop();
        }
        let mut state = self.lock();
        loop {
            let generation = self.generation.load(Ordering::Acquire);
            if generation != seen {
                return generation;
            }
            state.asleep += 1;
            state = self.wake.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            state.asleep -= 1;
        }
    }
}

/// Withdraws the job when dropped, and waits for the helpers that are inside.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().job = None;
        for _ in 0..SPINS {
            if self.0.inside.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut state = self.0.lock();
        while self.0.inside.load(Ordering::Acquire) != 0 {
            state = self.0.left.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

/// Outputs that are divided into pieces, one for each task.
pub(super) trait Divide: Sync {
    type Piece;
    fn pieces(&self) -> usize;
    /// # Safety
    /// No index may be asked for twice.
    unsafe fn piece(&self, index: usize) -> Self::Piece;
}

/// A slice cut into pieces of equal length, the last perhaps shorter.
pub(super) struct Chunks<'a, T> {
    first: *mut T,
    len: usize,
    each: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<'a, T> Chunks<'a, T> {
    pub(super) fn of(slice: &'a mut [T], each: usize) -> Chunks<'a, T> {
        assert!(each > 0 || slice.is_empty(), "chunks of no elements");
        Chunks { first: slice.as_mut_ptr(), len: slice.len(), each: each.max(1), life: PhantomData }
    }
}

// SAFETY: the pieces are disjoint, and each goes to one task.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T: Send> Divide for Chunks<'a, T> {
    type Piece = &'a mut [T];

    fn pieces(&self) -> usize {
        self.len.div_ceil(self.each)
    }

    unsafe fn piece(&self, index: usize) -> &'a mut [T] {
        let from = (index * self.each).min(self.len);
        let len = self.each.min(self.len - from);
        // SAFETY: inside the slice that is borrowed for 'a, and disjoint from the pieces of other indices.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(from), len) }
    }
}

impl<A: Divide, B: Divide> Divide for (A, B) {
    type Piece = (A::Piece, B::Piece);

    fn pieces(&self) -> usize {
        self.0.pieces()
    }

    unsafe fn piece(&self, index: usize) -> Self::Piece {
        // SAFETY: as promised by the caller.
        unsafe { (self.0.piece(index), self.1.piece(index)) }
    }
}

impl<A: Divide, B: Divide, C: Divide> Divide for (A, B, C) {
    type Piece = (A::Piece, B::Piece, C::Piece);

    fn pieces(&self) -> usize {
        self.0.pieces()
    }

    unsafe fn piece(&self, index: usize) -> Self::Piece {
        // SAFETY: as promised by the caller.
        unsafe { (self.0.piece(index), self.1.piece(index), self.2.piece(index)) }
    }
}

impl<A: Divide> Divide for Option<A> {
    type Piece = Option<A::Piece>;

    fn pieces(&self) -> usize {
        self.as_ref().map_or(0, A::pieces)
    }

    unsafe fn piece(&self, index: usize) -> Self::Piece {
        // SAFETY: as promised by the caller.
        self.as_ref().map(|outputs| unsafe { outputs.piece(index) })
    }
}

/// Numbers that several tasks write to, each in places of its own.
#[derive(Clone, Copy)]
pub(super) struct Shares<'a, E = f32> {
    first: *mut E,
    len: usize,
    life: PhantomData<&'a mut [E]>,
}

// SAFETY: who asks for a place promises to be alone there.
unsafe impl<E: Number> Send for Shares<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Number> Sync for Shares<'_, E> {}

impl<'a, E: Number> Shares<'a, E> {
    pub(super) fn of(slice: &'a mut [E]) -> Shares<'a, E> {
        Shares { first: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// The same numbers as f32, if that is what they are.
    pub(super) fn of_floats(self) -> Option<Shares<'a>> {
        let Shares { first, len, .. } = self;
        (E::KIND == f32::KIND).then(|| Shares { first: first.cast(), len, life: PhantomData })
    }

    /// `rows` rows of `columns`, `pitch` apart, from element `from` on; checked to lie inside.
    pub(super) fn window(&self, from: usize, [rows, columns]: [usize; 2], pitch: usize) -> *mut E {
        let end = if rows == 0 || columns == 0 { from } else { from + (rows - 1) * pitch + columns };
        assert!(end <= self.len, "a window that ends at {end} of {}", self.len);
        // SAFETY: inside the slice, as just checked.
        unsafe { self.first.add(from) }
    }

    /// # Safety
    /// While the piece is in use, these elements are the caller's alone.
    pub(super) unsafe fn piece(&self, from: usize, len: usize) -> &'a mut [E] {
        let first = self.window(from, [1, len], len);
        // SAFETY: inside the slice; alone there, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(first, len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_with_any_number_of_threads() {
        for threads in [1, 2, 5, 16] {
            let team = Team::new(threads, Kernel::best());
            for tasks in [0, 1, 2, 7, 100] {
                let mut counts = vec![0; tasks * 3];
                team.each_piece(Chunks::of(&mut counts, 3), |index, piece| {
                    piece.iter_mut().for_each(|count| *count += index + 1);
                });
                assert!(counts.iter().enumerate().all(|(i, &count)| count == i / 3 + 1));
            }
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_team_works_on() {
        let team = Team::new(3, Kernel::best());
        let outcome = catch_unwind(AssertUnwindSafe(|| team.each(50, |index| assert_ne!(index, 31))));
        assert!(outcome.is_err());
        team.each(50, |_| ());
    }
}
