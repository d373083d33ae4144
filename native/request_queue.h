// The FIFO queue of accept requests. A ref identifies each request. The queue removes a request by its ref, or the one
// with the earliest deadline, without a search.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <unordered_map>

class RequestQueue {
 public:
  // A safe integer in JavaScript, unique within its listener and never reused. At a million requests per second, 2^53
  // refs last 285 years. 0 is not a valid ref.
  using Ref = int64_t;

  static constexpr uint64_t kNoDeadline = UINT64_MAX;

  // Adds a request and returns its ref. Deadlines are in milliseconds, on the clock of the caller's choice. Throws
  // std::bad_alloc.
  Ref push(uint64_t deadline) {
    const Ref ref = last_ref_ + 1;
    reserve();
    if (deadline != kNoDeadline) {
      // Requests with equal timeouts have ascending deadlines, so a new deadline nearly always belongs at the end.
      auto expiry = deadlines_.emplace_hint(deadlines_.end(), deadline, ref);
      try {
        expiries_.emplace(ref, expiry);
      } catch (...) {
        deadlines_.erase(expiry);
        throw;
      }
    }
    push_reserved();
    return ref;
  }

  // Returns the number of requests that push_reserved() can add, at least 1. It stays valid if requests are removed.
  // Throws std::bad_alloc.
  size_t reserve() {
    const Ref next = last_ref_ + 1;
    const bool exists = !words_.empty() && words_.rbegin()->first == next / kBits;
    if (!exists && spare_.empty()) {
      Words word;
      word.emplace(0, 0);
      spare_ = word.extract(word.begin());
    }
    return kBits - next % kBits;
  }

  // Adds a request without a deadline. Needs no memory after reserve().
  void push_reserved() {
    const Ref ref = ++last_ref_;
    if (words_.empty() || words_.rbegin()->first != ref / kBits) {
      spare_.key() = ref / kBits;
      spare_.mapped() = 0;
      words_.insert(words_.end(), std::move(spare_));
    }
    words_.rbegin()->second |= bit_of(ref);
    size_++;
  }

  // Returns false if the ref is not outstanding.
  bool remove(Ref ref) {
    // The division would round it to the first word.
    if (ref < 0) return false;
    auto word = words_.find(ref / kBits);
    if (word == words_.end() || (word->second & bit_of(ref)) == 0) return false;
    remove(word, ref);
    return true;
  }

  // Returns the ref of the oldest request. The queue must not be empty.
  Ref front() const {
    const auto& [number, bits] = *words_.begin();
    return number * kBits + __builtin_ctzll(bits);
  }

  Ref pop() {
    const Ref ref = front();
    remove(words_.begin(), ref);
    return ref;
  }

  // Removes the request with the earliest deadline and returns its ref. Returns 0 if every deadline is later than
  // `now`.
  Ref pop_expired(uint64_t now) {
    if (next_deadline() > now || deadlines_.empty()) return 0;
    const Ref ref = deadlines_.begin()->second;
    remove(ref);
    return ref;
  }

  uint64_t next_deadline() const { return deadlines_.empty() ? kNoDeadline : deadlines_.begin()->first; }

  // Returns the most recently assigned ref.
  Ref last_ref() const { return last_ref_; }

  // Calls `visit` with each ref, oldest first.
  template <typename Visit>
  void each(Visit visit) const {
    for (auto [number, bits] : words_) {
      for (; bits != 0; bits &= bits - 1) visit(number * kBits + __builtin_ctzll(bits));
    }
  }

  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }

 private:
  using Deadlines = std::multimap<uint64_t, Ref>;
  using Words = std::map<Ref, uint64_t>;

  static constexpr Ref kBits = 64;
  static uint64_t bit_of(Ref ref) { return uint64_t{1} << (ref % kBits); }

  void remove(Words::iterator word, Ref ref) {
    if (!expiries_.empty()) {
      auto expiry = expiries_.find(ref);
      if (expiry != expiries_.end()) {
        deadlines_.erase(expiry->second);
        expiries_.erase(expiry);
      }
    }
    size_--;
    word->second &= ~bit_of(ref);
    // A word without a request stays in memory as the spare, for the next requests.
    if (word->second == 0) spare_ = words_.extract(word);
  }

  // One bit for each outstanding request. The bits of 64 consecutive refs are one word. Refs ascend, so the first bit
  // is the oldest request. A request without a deadline costs an eighth of a byte and no allocation of its own.
  Words words_;
  Words::node_type spare_;
  size_t size_ = 0;
  Deadlines deadlines_;
  std::unordered_map<Ref, Deadlines::iterator> expiries_;
  Ref last_ref_ = 0;
};
