//! Go's `math.Exp` on amd64, to the last bit, since what a program says of its own heap depends on it: a sample of a
//! small object stands for 1 / (1 - exp(-tiny)) of them, which makes a rounding in the sixteenth digit one byte in a
//! gigabyte. Go `src/math/exp_amd64.s` (the same from 1.21.13 to 1.27.3). Only for arguments of at most 0.

const LN2_UPPER: f64 = 0.693_147_180_559_662_956_511_601_805_686_950_683_593_75;
const LN2_LOWER: f64 = 0.282_352_905_630_315_771_225_884_481_750_134_360_255_254_120_68e-12;
/// Of the Taylor series of exp(x) - 1, divided by x: from x^7 to x^0.
#[expect(clippy::excessive_precision, reason = "the digits of Go's source")]
const SERIES: [f64; 8] = [
    2.480_158_730_158_730_158_7e-5,
    1.984_126_984_126_984_127_0e-4,
    1.388_888_888_888_888_888_9e-3,
    8.333_333_333_333_333_333_3e-3,
    4.166_666_666_666_666_666_7e-2,
    1.666_666_666_666_666_666_7e-1,
    0.5,
    1.0,
];

/// e to the power of `x`, which is 0 or less.
pub(super) fn go_exp(x: f64) -> f64 {
    // Go takes the other way on machines without.
    let fused =
        std::arch::is_x86_feature_detected!("fma") && std::arch::is_x86_feature_detected!("avx");
    exp(x, fused)
}

fn exp(x: f64, fused: bool) -> f64 {
    let fma = |a: f64, b: f64, c: f64| if fused { a.mul_add(b, c) } else { a * b + c };
    let exponent = (x * std::f64::consts::LOG2_E).round_ties_even();
    if exponent <= -1023.0 {
        // Nothing that one less it would tell from 0.
        return 0.0;
    }
    // x = exponent * ln 2 + 16 * rest.
    let rest = fma(-exponent, LN2_LOWER, fma(-exponent, LN2_UPPER, x)) * 0.0625;
    let series = SERIES[1..].iter().fold(SERIES[0], |sum, term| fma(sum, rest, *term));
    // exp(2a) - 1 = (exp(a) - 1) * (exp(a) - 1 + 2), four times.
    let mut less_one = rest * series;
    for _ in 0..3 {
        less_one *= less_one + 2.0;
    }
    fma(less_one + 2.0, less_one, 1.0) * exponent.exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_exponential() {
        for x in [0.0, -1e-9, -48.0 / 524_288.0, -0.5, -1.0, -20.0, -700.0, -1e9] {
            for fused in [true, false] {
                let (ours, theirs) = (exp(x, fused), x.exp());
                assert!((ours - theirs).abs() <= 4e-16 * theirs, "{x}: {ours} {theirs}");
            }
        }
    }
}
