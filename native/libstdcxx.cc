// A symbol that older versions of libstdc++ lack. Without this definition, a binary compiled with GCC 11 or later would
// require GLIBCXX_3.4.29, although Node itself requires only GLIBCXX_3.4.21.
#include <new>

#ifdef __GLIBCXX__
// NOLINTBEGIN(cert-dcl37-c, cert-dcl51-cpp, cert-dcl58-cpp, bugprone-reserved-identifier): the linker requires this
// name in this namespace
namespace std {

// Containers call this function when a size overflows.
[[noreturn]] __attribute__((visibility("hidden"))) void __throw_bad_array_new_length() { throw bad_array_new_length(); }

}  // namespace std
// NOLINTEND(cert-dcl37-c, cert-dcl51-cpp, cert-dcl58-cpp, bugprone-reserved-identifier)
#endif
