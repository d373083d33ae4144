// Functions that query an fd by its number, and the constants that JavaScript passes to them.
#pragma once

#include <napi.h>

namespace fd_facts {

void define(Napi::Object exports);

}
