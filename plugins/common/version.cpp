// The contracts that the library was compiled from; a graph and a library that disagree must not meet.
#include "contracts.h"

extern "C" __attribute__((visibility("default"))) const char *quamba_plugins_version() {
    return QUAMBA_CONTRACTS;
}
