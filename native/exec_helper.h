// The program compiled from exec_helper.c. The addon contains the program, because bundlers and copies of the addon
// would lose a second file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace exec_helper {

const uint8_t* image();
size_t size();

// Copies the program into memory (memfd_create(2)). Returns a close-on-exec fd that is at least `lowest`, or a negative
// errno. On success, `/proc/self/fd/<fd>` is executable.
int open(int lowest);

}  // namespace exec_helper
