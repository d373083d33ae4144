// The FIFO queue of accept requests. A ref identifies each request. The queue removes a request by its ref, or the one
// with the earliest deadline, without a search.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>

class RequestQueue {
 public:
  // A safe integer in JavaScript, unique within its listener and never reused. At a million requests per second, 2^53
  // refs last 285 years. 0 is not a valid ref.
  using Ref = int64_t;

  static constexpr uint64_t kNoDeadline = UINT64_MAX;

  // Adds a request and returns its ref. Deadlines are in milliseconds, on the clock of the caller's choice.
  Ref push(uint64_t deadline) {
    Ref ref = last_ref_ + 1;
    Request& request = requests_[ref];
    request.expiry = deadlines_.end();
    if (deadline != kNoDeadline) {
      try {
        // Requests with equal timeouts have ascending deadlines, so a new deadline nearly always belongs at the end.
        request.expiry = deadlines_.emplace_hint(deadlines_.end(), deadline, ref);
      } catch (...) {
        requests_.erase(ref);
        throw;
      }
    }
    last_ref_ = ref;
    request.ref = ref;
    request.previous = tail_;
    (tail_ != nullptr ? tail_->next : head_) = &request;
    tail_ = &request;
    return ref;
  }

  // Returns false if the ref is not outstanding.
  bool remove(Ref ref) {
    auto found = requests_.find(ref);
    if (found == requests_.end()) return false;
    Request& request = found->second;
    if (request.expiry != deadlines_.end()) deadlines_.erase(request.expiry);
    (request.previous != nullptr ? request.previous->next : head_) = request.next;
    (request.next != nullptr ? request.next->previous : tail_) = request.previous;
    requests_.erase(found);
    return true;
  }

  // Returns the ref of the oldest request. The queue must not be empty.
  Ref front() const { return head_->ref; }

  Ref pop() {
    Ref ref = front();
    remove(ref);
    return ref;
  }

  // Removes the request with the earliest deadline and returns its ref. Returns 0 if every deadline is later than
  // `now`.
  Ref pop_expired(uint64_t now) {
    if (next_deadline() > now || deadlines_.empty()) return 0;
    Ref ref = deadlines_.begin()->second;
    remove(ref);
    return ref;
  }

  uint64_t next_deadline() const { return deadlines_.empty() ? kNoDeadline : deadlines_.begin()->first; }

  // Returns the most recently assigned ref.
  Ref last_ref() const { return last_ref_; }

  // Calls `visit` with each ref, oldest first.
  template <typename Visit>
  void each(Visit visit) const {
    for (const Request* request = head_; request != nullptr; request = request->next) visit(request->ref);
  }

  bool empty() const { return requests_.empty(); }
  size_t size() const { return requests_.size(); }

 private:
  using Deadlines = std::multimap<uint64_t, Ref>;

  struct Request {
    Ref ref = 0;
    Request* previous = nullptr;
    Request* next = nullptr;
    Deadlines::iterator expiry;
  };

  // An unordered_map never moves its nodes, so the linked list can point to them. A request costs one allocation, or
  // two if it has a deadline.
  std::unordered_map<Ref, Request> requests_;
  Deadlines deadlines_;
  Request* head_ = nullptr;
  Request* tail_ = nullptr;
  Ref last_ref_ = 0;
};
