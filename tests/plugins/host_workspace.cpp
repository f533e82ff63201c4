// The workspace of a scan, for test_tensorrt_memory.py.
#include "../../plugins/QuantizedSSDScan/workspace.cuh"

extern "C" int64_t ssd_workspace(int64_t B, int64_t L, int64_t H, int64_t P, int64_t G, int64_t N) {
    QuambaQuantizedSSDScan op = {};
    op.size.B = B, op.size.L = L, op.size.H = H, op.size.P = P, op.size.G = G, op.size.N = N;
    return int64_t(quamba::workspace_bytes(op));
}
