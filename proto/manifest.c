#include "proto/manifest.h"
