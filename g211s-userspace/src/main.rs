//! The `g211s` command.
use g211s::bpf::features;
fn main() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _g = rt.enter();
    g211s::bpf::ensure_tracefs().ok();
    for c in features::probe() { println!("{c:?}"); }
}
