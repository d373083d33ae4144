// Functions that create, adopt, configure, transfer and close an fd by its number.
#pragma once

#include <napi.h>

namespace fd_functions {

void define(Napi::Object exports);

}
