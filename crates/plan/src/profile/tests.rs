//! Fits, and files of profiles.

use super::*;

fn measured(sizes: [usize; 5], seconds: f64) -> Measured {
    let point = Point { sizes, seconds, range_s: [seconds, seconds] };
    Measured { op: "matmul".into(), form: String::new(), point, enqueue_s: 0.0, waits: false }
}

fn subject() -> Subject {
    let precision = Precision::F32;
    Subject { device: "made up".into(), threads: 1, precision, base_bytes: 7, links: None }
}

fn truth([m, n, k, ..]: [usize; 5]) -> f64 {
    2e-5 + (m * n * k) as f64 / 5e10 + (m * k + n * k) as f64 / 1e10
}

#[test]
fn a_device_of_known_speed_is_found_again_at_sizes_that_were_not_measured() {
    let mut points = vec![];
    for m in [64, 256, 1024] {
        for n in [96, 384, 1536] {
            points.extend([128, 512, 2048].map(|k| measured([m, n, k, 0, 0], truth([m, n, k, 0, 0]))));
        }
    }
    let profile = Profile::fit(subject(), points, &[]);
    for sizes in [[100, 200, 300, 0, 0], [700, 1000, 900, 0, 0], [2000, 3000, 4000, 0, 0]] {
        let found = profile.family[0].seconds(&sizes, None);
        assert!((found / truth(sizes) - 1.0).abs() < 0.02, "{sizes:?}: {found} for {}", truth(sizes));
    }
}

#[test]
fn a_profile_survives_its_file_and_a_damaged_one_is_refused() {
    let profile = Profile::fit(subject(), vec![measured([8, 8, 8, 0, 0], 1e-4)], &[]);
    assert_eq!(Profile::parse(&profile.to_toml()).unwrap(), profile);
    assert!(Profile::parse(&profile.to_toml().replace("seconds = 0.0001", "seconds = nan")).is_err());
    assert!(Profile::parse("device = 3").is_err());
}

#[test]
fn a_profile_of_an_accelerator_keeps_what_the_host_takes() {
    let links = Links { to_device_bytes_per_s: 9e9, to_host_bytes_per_s: 16e9, both_bytes_per_s: 20e9 };
    let subject = Subject { threads: 0, precision: Precision::Bf16, links: Some(links), ..subject() };
    let call = |seconds, enqueue_s| Measured { enqueue_s, ..measured([8, 8, 8, 0, 0], seconds) };
    let profile = Profile::fit(subject, vec![call(1e-4, 3e-6), call(1e-4, 5e-6), call(1e-4, 9e-6)], &[]);
    assert!((profile.family[0].enqueue_s - 5e-6).abs() < 1e-12 && profile.is_of_accelerator());
    assert_eq!(Profile::parse(&profile.to_toml()).unwrap(), profile);
}
