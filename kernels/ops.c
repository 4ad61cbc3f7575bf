/* ops.c - finds the back end of a device name. The CPU back ends are linked in. */
#include "kernels/ops.h"
#include "proto/base/err.h"
#include <string.h>

int kn_ops_for(const char *device, const struct kn_ops **ret_ops, struct lh_err *reterr)
{
    if (strcmp(device, "cpu") == 0) {
        *ret_ops = &kn_cpu_ops;
        return 0;
    }
    if (strcmp(device, "reference") == 0) {
        *ret_ops = &kn_reference_ops;
        return 0;
    }
    if (strcmp(device, "cuda") == 0 || strcmp(device, "cuda-emu") == 0)
        return lh_err_set(reterr, LH_ENOTSUP, "device '%s' is not in this build; use device 'cpu'",
                          device);
    return lh_err_set(reterr, LH_ENOTSUP,
                      "device '%s' is not known; the devices are cpu, cuda and cuda-emu", device);
}
