#include "client/data/dataset.h"
