//! Many tests at once: p-values adjusted so that each can be held against the level meant for all.
//! Must not know what was tested. A p-value that is no number counts as 1.

/// Ascending order of these p-values.
fn order(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| sane(p[a]).total_cmp(&sane(p[b])));
    order
}

fn sane(p: f64) -> f64 {
    if p.is_nan() { 1.0 } else { p.clamp(0.0, 1.0) }
}

/// S. Holm, "A simple sequentially rejective multiple test procedure" (1979): the chance that any of
/// those at or below a level is there by chance is at most that level.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut out = vec![1.0; p.len()];
    let mut highest = 0.0_f64;
    for (n, at) in order(p).into_iter().enumerate() {
        highest = highest.max(sane(p[at]) * (p.len() - n) as f64).min(1.0);
        out[at] = highest;
    }
    out
}

/// Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate" (1995): of those at or below a
/// level, at most that share are there by chance, on average.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut out = vec![1.0; p.len()];
    let mut lowest = 1.0_f64;
    for (n, at) in order(p).into_iter().enumerate().rev() {
        lowest = lowest.min(sane(p[at]) * p.len() as f64 / (n + 1) as f64);
        out[at] = lowest;
    }
    out
}
