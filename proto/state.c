#include "proto/state.h"
