// One call at a time over all links of a simulation: gRPC's threads then post in one order only.
#ifndef STRATA_TESTS_SIM_CALL_GATE_H_
#define STRATA_TESTS_SIM_CALL_GATE_H_

#include <algorithm>
#include <deque>
#include <functional>
#include <string>
#include <utility>

namespace strata::sim {

// Not thread-safe: begun and ended on the simulation's own thread.
class CallGate {
 public:
  void Enqueue(std::string site, std::function<void()> call) { waiting_.push_back({std::move(site), std::move(call)}); }
  bool busy() const { return busy_; }
  bool StartNext() {
    if (busy_ || waiting_.empty()) return false;
    busy_ = true;
    const Call next = std::move(waiting_.front());
    waiting_.pop_front();
    next.call();
    return true;
  }
  void End() { busy_ = false; }
  // Calls that a process meant to make before it died.
  void Forget(const std::string& site) {
    std::erase_if(waiting_, [&](const Call& call) { return call.site == site; });
  }

 private:
  struct Call {
    std::string site;
    std::function<void()> call;
  };
  std::deque<Call> waiting_;
  bool busy_ = false;
};

}  // namespace strata::sim

#endif  // STRATA_TESTS_SIM_CALL_GATE_H_
