// Part of the simulator's Windows: see sim_windows.h.
#include "sim_windows.h"
