// The wire of one simulated site: real calls through the gate, written into the journal.
#ifndef STRATA_TESTS_SIM_GATED_LINK_H_
#define STRATA_TESTS_SIM_GATED_LINK_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/link/federation_link.h"
#include "common/secure/digest.h"
#include "tests/sim/call_gate.h"
#include "tests/sim/journal.h"

namespace strata::sim {

class GatedLink : public link::FederationLink {
 public:
  // `server_is_well` is asked when an answer arrives: a server whose disk has halted is about to die, and what it says
  // is not heard.
  GatedLink(std::string site, CallGate& gate, Journal& journal, std::function<bool()> server_is_well)
      : site_(std::move(site)), gate_(gate), journal_(journal), server_is_well_(std::move(server_is_well)) {}

  // Null: the server is gone.
  void set_target(link::FederationLink* target) { target_ = target; }

  void CheckIn(const struct link::CheckIn& request, link::Callback<link::CheckInAnswer> done) override {
    Call<link::CheckInAnswer>(
        "CheckIn", [this, request](auto next) { target_->CheckIn(request, std::move(next)); },
        [this](const link::CheckInAnswer& answer) { return Describe(answer); }, std::move(done));
  }
  void Fetch(const link::BlobRef& blob, const std::string& path, link::Callback<uint64_t> done) override {
    Call<uint64_t>(
        "Fetch", [this, blob, path](auto next) { target_->Fetch(blob, path, std::move(next)); },
        [](uint64_t bytes) { return absl::StrCat(bytes, " bytes"); }, std::move(done));
  }
  void Submit(const std::string& assignment, link::Update update, link::Callback<link::Receipt> done) override {
    Call<link::Receipt>(
        "Submit", [this, assignment, update](auto next) { target_->Submit(assignment, update, std::move(next)); },
        [this, assignment](const link::Receipt& receipt) {
          journal_.receipts[assignment] = {
              .site = site_, .sha256 = receipt.tensors_sha256, .round = journal_.assignments[assignment].round};
          return secure::ToHex(receipt.tensors_sha256);
        },
        std::move(done));
  }
  void SubmitEvaluation(const std::string& assignment, const std::vector<adapter::Metric>& metrics,
                        link::Callback<link::Receipt> done) override {
    Call<link::Receipt>(
        "SubmitEvaluation",
        [this, assignment, metrics](auto next) { target_->SubmitEvaluation(assignment, metrics, std::move(next)); },
        [](const link::Receipt&) { return std::string(); }, std::move(done));
  }
  void Report(const link::Progress& progress, link::Callback<link::ProgressAnswer> done) override {
    Call<link::ProgressAnswer>(
        "Report", [this, progress](auto next) { target_->Report(progress, std::move(next)); },
        [](const link::ProgressAnswer& answer) { return answer.stop ? "stop: " + answer.reason : "go on"; },
        std::move(done));
  }
  void Release(const std::string& assignment, const std::string& reason, link::Callback<bool> done) override {
    Call<bool>(
        "Release", [this, assignment, reason](auto next) { target_->Release(assignment, reason, std::move(next)); },
        [](bool) { return std::string(); }, std::move(done));
  }
  void Shutdown() override {}

 private:
  template <typename T, typename Send, typename Tell>
  void Call(const char* name, Send send, Tell tell, link::Callback<T> done) {
    auto shared = std::make_shared<link::Callback<T>>(std::move(done));  // std::function wants copies
    gate_.Enqueue(site_, [this, name, send, tell, shared] {
      const bool sent = target_ != nullptr;
      auto next = [this, name, tell, sent, shared](absl::StatusOr<T> value) {
        gate_.End();
        if (sent && !server_is_well_()) value = absl::UnavailableError("the server died during the call (simulated)");
        journal_.Note(site_, absl::StrCat(name, " ", value.ok() ? tell(*value) : value.status().ToString()));
        std::move (*shared)(std::move(value));
      };
      if (!sent) return next(absl::UnavailableError("the server is away (simulated)"));
      send(link::Callback<T>(std::move(next)));
    });
  }

  std::string Describe(const link::CheckInAnswer& answer) {
    if (const auto* later = std::get_if<link::ComeBack>(&answer)) return "come back: " + later->reason;
    const auto& assignment = std::get<link::Assignment>(answer);
    for (const auto& [id, promise] : journal_.receipts) {
      if (assignment.train && promise.site == site_ && promise.round == assignment.round) {
        journal_.Fail(absl::StrCat("the receipt of ", site_, " for round ", assignment.round, " was forgotten: it is ",
                                   "to train again"));
      }
    }
    journal_.assignments[assignment.id] = {.site = site_, .round = assignment.round};
    return absl::StrCat(assignment.train ? "train " : "evaluate ", assignment.round, ".", assignment.attempt,
                        " version ", assignment.version, " ", secure::ToHex(assignment.id));
  }

  const std::string site_;
  CallGate& gate_;
  Journal& journal_;
  std::function<bool()> server_is_well_;
  link::FederationLink* target_ = nullptr;
};

}  // namespace strata::sim

#endif  // STRATA_TESTS_SIM_GATED_LINK_H_
