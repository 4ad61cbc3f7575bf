#include "proto/event.h"
