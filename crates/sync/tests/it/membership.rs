//! Workers come and go.

use lingot_spec::Problem;
use lingot_sync::membership::{Change, Leave, Membership, Standing, deadline_s, overdue};

fn failed(step: u64) -> Leave {
    Leave::Failed { step, problem: Problem::new("out of memory", "use less") }
}

#[test]
fn a_worker_leaves_at_once_and_joins_at_the_boundary() {
    let mut members = Membership::new(3);
    let change = members.leave(1, failed(7)).unwrap();
    assert_eq!(change, Some(Change::Left { worker: 1, leave: failed(7) }));
    assert_eq!(members.active(), [0, 2]);
    assert_eq!(members.leave(1, failed(8)), Ok(None));
    assert_eq!(members.announce(1), Some(Change::Announced { worker: 1 }));
    assert_eq!(members.active(), [0, 2]);
    assert_eq!(members.expect_new(), 3);
    assert_eq!(members.expect_new(), 4);
    assert_eq!(members.announce(3), Some(Change::Announced { worker: 3 }));
    let joined = [1, 3].map(|worker| Change::Joined { worker, step: 9 });
    assert_eq!(members.boundary(9), joined);
    assert_eq!(members.active(), [0, 1, 2, 3]);
    assert_eq!(members.announce(2), None, "it takes part already");
    assert_eq!(members.standing(4), Some(&Standing::Expected), "it has not asked yet");
    members.leave(2, Leave::Removed { step: 9 }).unwrap();
    members.expect(2);
    assert_eq!(members.active(), [0, 1, 3]);
}

#[test]
fn losing_all_says_why_each_was_lost() {
    let mut members = Membership::new(2);
    members.leave(0, failed(3)).unwrap();
    let hung = overdue(4, 9.0, 5.0).unwrap();
    let lost = members.leave(1, hung).unwrap_err();
    assert_eq!(
        lost.to_string(),
        "all workers are lost: worker 0 failed in step 3: out of memory; \
         worker 1 was silent for 9.000 s in step 4, its deadline is 5.000 s"
    );
}

#[test]
fn one_that_joins_keeps_the_run_alive() {
    let mut members = Membership::new(1);
    members.expect_new();
    assert!(members.leave(0, failed(1)).is_ok());
    members.announce(1);
    members.boundary(1);
    assert_eq!(members.active(), [1]);
    assert!(matches!(members.standing(0), Some(Standing::Gone(_))));
    assert_eq!(members.leave(9, failed(1)), Ok(None));
}

#[test]
fn a_deadline_is_a_multiple_of_what_the_work_should_take() {
    assert_eq!(deadline_s(2.0, 5.0, 1.0), 10.0);
    assert_eq!(deadline_s(0.01, 5.0, 1.0), 1.0);
    assert_eq!(overdue(1, 10.0, 10.0), None);
}
