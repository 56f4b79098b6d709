#include "server/store/store.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "common/secure/digest.h"
#include "server/store/database.h"
#include "tests/testing/sim_runtime.h"
#include "tests/testing/status_matchers.h"

namespace strata::store {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::SimRuntime;
using testing::StatusIs;

constexpr char kDir[] = "/var/strata";

JobRow Job(const std::string& id, uint64_t sequence) {
  JobRow row;
  row.id = id;
  row.sequence = sequence;
  row.config = std::string("\0\x01payload", 9);
  return row;
}

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// OK or the error, once the executor has come to rest. CANCELLED: never answered.
absl::Status CommitAndWait(SimRuntime& machine, Store& store, std::vector<Change> changes) {
  absl::Status result = absl::CancelledError("not answered");
  store.Commit(std::move(changes), [&result](absl::Status status) { result = std::move(status); });
  machine.executor().RunUntilIdle();
  return result;
}

TEST(StoreTest, RowsComeBack) {
  SimRuntime machine;
  {
    ASSERT_OK_AND_ASSIGN(auto store, Store::Open(machine.get(), kDir));
    std::vector<Change> changes;
    changes.emplace_back(Job("one", 1));
    changes.emplace_back(RoundRow{"one", 1, 1, "report"});
    changes.emplace_back(AssignmentRow{"id", "one", 1, 1, "site", 0, 2, "why", 7, "assignment", "report"});
    changes.emplace_back(UploadRow{"id", "digest", 100, 50, "manifest", "signature", "key"});
    changes.emplace_back(UpdateRow{"other", "one", "sha", 10, "update manifest", "signature", "key"});
    changes.emplace_back(BlobRow{"b1", 5, "blob manifest"});
    changes.emplace_back(VersionRow{"one", 1, 1, 8, {"b1"}});
    changes.emplace_back(VersionRow{"one", 2, 2, 12, {"b1", "b2"}});
    ASSERT_OK(CommitAndWait(machine, *store, std::move(changes)));
    std::string manifest;
    store->ReadManifest("b1", [&](absl::StatusOr<std::string> read) { manifest = *read; });
    machine.executor().RunUntilIdle();
    EXPECT_EQ(manifest, "blob manifest");
  }
  ASSERT_OK_AND_ASSIGN(auto store, Store::Open(machine.get(), kDir));
  const Contents contents = store->TakeContents();
  ASSERT_EQ(contents.jobs.size(), 1u);
  EXPECT_EQ(contents.jobs[0].config, std::string("\0\x01payload", 9));
  ASSERT_EQ(contents.assignments.size(), 1u);
  EXPECT_EQ(contents.assignments[0].reason, "why");
  EXPECT_EQ(contents.assignments[0].issued, 7);
  ASSERT_EQ(contents.uploads.size(), 1u);
  EXPECT_EQ(contents.uploads[0].durable, 50u);
  EXPECT_EQ(contents.uploads[0].signature, "signature");
  ASSERT_EQ(contents.versions.size(), 2u);
  EXPECT_EQ(contents.versions[1].blobs, (std::vector<std::string>{"b1", "b2"}));
  EXPECT_EQ(contents.versions[1].max_rank, 12u);
  EXPECT_EQ(contents.rounds[0].report, "report");
}

TEST(StoreTest, BlobsAreCheckedWhenOpened) {
  SimRuntime machine;
  ASSERT_OK_AND_ASSIGN(auto store, Store::Open(machine.get(), kDir));
  ASSERT_OK_AND_ASSIGN(const std::string sha256, store->blobs().Put(Bytes("some bytes")));
  EXPECT_EQ(sha256, secure::Sha256("some bytes"));
  EXPECT_OK(store->blobs().Open(sha256));
  EXPECT_THAT(store->blobs().Open(secure::Sha256("others")), StatusIs(absl::StatusCode::kNotFound));
  machine.clock().Advance(absl::Seconds(1));
  const std::string path = runtime::JoinPath(runtime::JoinPath(kDir, "blobs"), secure::ToHex(sha256));
  ASSERT_OK(machine.files().WriteFile(path, "sOme bytes"));
  EXPECT_THAT(store->blobs().Open(sha256), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(path)));
}

TEST(StoreTest, OpeningSweepsWhatNothingRefersTo) {
  SimRuntime machine;
  std::string kept;
  std::string orphan;
  {
    ASSERT_OK_AND_ASSIGN(auto store, Store::Open(machine.get(), kDir));
    ASSERT_OK_AND_ASSIGN(kept, store->blobs().Put(Bytes("kept")));
    ASSERT_OK_AND_ASSIGN(orphan, store->blobs().Put(Bytes("orphan")));
    ASSERT_OK(store->blobs().OpenUpload("stale", 10, true).status());
    ASSERT_OK(CommitAndWait(machine, *store, {VersionRow{"job", 1, 1, 1, {kept}}}));
  }
  ASSERT_OK_AND_ASSIGN(auto store, Store::Open(machine.get(), kDir));
  EXPECT_OK(store->blobs().Open(kept));
  EXPECT_THAT(store->blobs().Open(orphan), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_FALSE(store->blobs().HasUpload("stale", 0));
}

TEST(StoreTest, AFullDiskFailsTheRequestAndNothingElse) {
  SimRuntime machine;
  ASSERT_OK_AND_ASSIGN(auto store, Store::Open(machine.get(), kDir));
  ASSERT_OK(CommitAndWait(machine, *store, {Job("one", 1)}));
  machine.files().SetCapacity(machine.files().used_bytes() + 1000);
  JobRow big = Job("big", 2);
  big.config = std::string(1 << 20, 'x');
  EXPECT_THAT(CommitAndWait(machine, *store, {big}), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(store->blobs().OpenUpload("upload", 1 << 20, true), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(store->blobs().Put(Bytes(std::string(1 << 20, 'y'))), StatusIs(absl::StatusCode::kResourceExhausted));
  machine.files().SetCapacity(uint64_t{1} << 40);
  EXPECT_OK(CommitAndWait(machine, *store, {big}));
  EXPECT_OK(store->blobs().Put(Bytes(std::string(1 << 20, 'y'))));
  store.reset();
  ASSERT_OK_AND_ASSIGN(store, Store::Open(machine.get(), kDir));
  EXPECT_EQ(store->TakeContents().jobs.size(), 2u);
}

TEST(StoreTest, ChangesThatWaitTogetherFailAlone) {
  SimRuntime machine;
  ASSERT_OK_AND_ASSIGN(auto store, Store::Open(machine.get(), kDir));
  ASSERT_OK(CommitAndWait(machine, *store, {Job("zero", 0)}));
  machine.files().SetCapacity(machine.files().used_bytes() + (100 << 10));
  JobRow big = Job("big", 2);
  big.config = std::string(1 << 20, 'x');
  absl::Status small_result;
  absl::Status big_result;
  store->Commit({Job("small", 1)}, [&](absl::Status status) { small_result = status; });
  store->Commit({big}, [&](absl::Status status) { big_result = status; });
  machine.executor().RunUntilIdle();
  EXPECT_OK(small_result);
  EXPECT_THAT(big_result, StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST(StoreTest, ANewerSchemaIsRefused) {
  SimRuntime machine;
  {
    ASSERT_OK(machine.files().MakeDirectories(kDir));
    ASSERT_OK_AND_ASSIGN(auto database, Database::Open(machine.get(), "/var/strata/strata.db"));
    ASSERT_OK(database->Execute("PRAGMA user_version=1000"));
  }
  EXPECT_THAT(Store::Open(machine.get(), kDir), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("1000")));
}

TEST(StoreTest, AnOldFileIsMigratedForward) {
  SimRuntime machine;
  ASSERT_OK(machine.files().MakeDirectories(kDir));
  // A database that was made but never got its schema: user_version 0.
  ASSERT_OK_AND_ASSIGN(auto file, machine.files().Open("/var/strata/strata.db", runtime::OpenMode::kCreate));
  file.reset();
  ASSERT_OK_AND_ASSIGN(auto store, Store::Open(machine.get(), kDir));
  ASSERT_OK(CommitAndWait(machine, *store, {Job("one", 1)}));
}

TEST(StoreTest, ADamagedDatabaseIsAnErrorNotACrash) {
  SimRuntime machine;
  ASSERT_OK(machine.files().MakeDirectories(kDir));
  ASSERT_OK(machine.files().WriteFile("/var/strata/strata.db", std::string(8192, 'z')));
  EXPECT_THAT(Store::Open(machine.get(), kDir), StatusIs(absl::StatusCode::kDataLoss));
}

// Stores three receipts one after another, each with its blob; returns which were acknowledged before the machine
// stopped.
std::set<std::string> StoreReceipts(SimRuntime& machine) {
  std::set<std::string> acknowledged;
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(machine.get(), kDir);
  if (!store.ok()) return acknowledged;
  for (const std::string name : {"first", "second", "third"}) {
    const std::string content = name + " bytes";
    const std::string sha256 = secure::Sha256(content);
    const absl::Status written = [&]() -> absl::Status {
      absl::StatusOr<std::unique_ptr<runtime::File>> file = (*store)->blobs().OpenUpload(name, content.size(), true);
      if (!file.ok()) return file.status();
      if (absl::Status status = (*file)->WriteAt(0, Bytes(content)); !status.ok()) return status;
      if (absl::Status status = (*file)->Sync(); !status.ok()) return status;
      return (*store)->blobs().Publish(name, sha256);
    }();
    if (!written.ok()) break;
    const absl::Status committed =
        CommitAndWait(machine, **store, {UpdateRow{name, "job", sha256, content.size(), "m", "", ""}});
    if (!committed.ok()) break;
    acknowledged.insert(name);
  }
  return acknowledged;
}

TEST(StoreCrashTest, WhatWasAcknowledgedIsThereWhereverThePowerFails) {
  uint64_t stops = 0;
  {
    SimRuntime machine;
    ASSERT_EQ(StoreReceipts(machine).size(), 3u);
    stops = machine.files().num_changes();
  }
  ASSERT_GT(stops, 30u);
  for (uint64_t stop = 0; stop <= stops; ++stop) {
    SimRuntime machine(stop + 1);
    machine.files().HaltAfter(stop);
    const std::set<std::string> acknowledged = StoreReceipts(machine);
    machine.executor().Clear();
    machine.files().Crash();
    ASSERT_OK_AND_ASSIGN(auto store, Store::Open(machine.get(), kDir));
    std::set<std::string> found;
    for (const UpdateRow& update : store->TakeContents().updates) {
      found.insert(update.assignment);
      ASSERT_OK(store->blobs().Open(update.sha256)) << "stop " << stop << ", " << update.assignment;
    }
    for (const std::string& name : acknowledged)
      ASSERT_TRUE(found.contains(name)) << "stop " << stop << " lost " << name;
  }
}

}  // namespace
}  // namespace strata::store
