#include "common/runtime/file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <string>

#include "common/runtime/posix_file_system.h"
#include "tests/testing/status_matchers.h"

namespace strata::runtime {
namespace {

using ::strata::testing::IsOk;
using ::strata::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }
std::string Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class PosixFileSystemTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/strata_files_" + std::to_string(getpid());
    ASSERT_OK(files_.RemoveAll(dir_));
    ASSERT_OK(files_.MakeDirectories(dir_ + "/a/b/"));
    ASSERT_OK(files_.MakeDirectories(dir_ + "/a/b/"));
  }
  void TearDown() override { EXPECT_OK(files_.RemoveAll(dir_)); }
  std::string Path(const std::string& name) const { return JoinPath(dir_, name); }

  PosixFileSystem files_;
  std::string dir_;
};

TEST_F(PosixFileSystemTest, WritesAndReadsAtOffsets) {
  ASSERT_OK_AND_ASSIGN(const auto file, files_.Open(Path("x"), OpenMode::kCreateNew));
  ASSERT_OK(file->WriteAt(3, Bytes("def")));
  ASSERT_OK(file->WriteAt(0, Bytes("abc")));
  ASSERT_OK(file->Sync());
  std::array<std::byte, 10> out{};
  ASSERT_OK_AND_ASSIGN(const size_t got, file->ReadAt(1, out));
  EXPECT_EQ(Text(std::span(out).first(got)), "bcdef");
  EXPECT_EQ(*file->Size(), 6U);
  ASSERT_OK(file->Truncate(2));
  EXPECT_EQ(*files_.ReadFile(Path("x")), "ab");
  EXPECT_EQ(*file->ReadAt(100, out), 0U);
}

TEST_F(PosixFileSystemTest, ModesDecideWhatMustExist) {
  EXPECT_THAT(files_.Open(Path("x"), OpenMode::kRead),
              StatusIs(absl::StatusCode::kNotFound, "cannot open " + Path("x") + ": No such file or directory"));
  EXPECT_THAT(files_.Open(Path("x"), OpenMode::kReadWrite), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_OK(files_.Open(Path("x"), OpenMode::kCreate));
  EXPECT_OK(files_.Open(Path("x"), OpenMode::kCreate));
  EXPECT_THAT(files_.Open(Path("x"), OpenMode::kCreateNew),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(Path("x"))));
}

TEST_F(PosixFileSystemTest, ReserveKeepsTheSize) {
  ASSERT_OK_AND_ASSIGN(const auto file, files_.Open(Path("x"), OpenMode::kCreate));
  ASSERT_OK(file->Reserve(1 << 20));
  EXPECT_EQ(*file->Size(), 0U);
  EXPECT_THAT(file->Reserve(uint64_t{1} << 60), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(Path("x"))));
}

TEST_F(PosixFileSystemTest, AFullDiskIsResourceExhausted) {
  if (!files_.Exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  ASSERT_OK_AND_ASSIGN(const auto file, files_.Open("/dev/full", OpenMode::kReadWrite));
  EXPECT_THAT(file->WriteAt(0, Bytes("x")),
              StatusIs(absl::StatusCode::kResourceExhausted, "cannot write /dev/full: No space left on device"));
}

TEST_F(PosixFileSystemTest, MapsFilesEmptyFilesAndDevices) {
  const std::string content(100000, 'm');
  ASSERT_OK(files_.WriteFile(Path("x"), content));
  ASSERT_OK_AND_ASSIGN(const auto mapping, files_.Map(Path("x")));
  ASSERT_OK(files_.Remove(Path("x")));
  mapping->Release(0, 50000);
  mapping->Release(50000, content.size());
  mapping->Release(content.size() + 5, 1);
  EXPECT_EQ(Text(mapping->bytes()), content);
  ASSERT_OK(files_.WriteFile(Path("empty"), ""));
  EXPECT_TRUE((*files_.Map(Path("empty")))->bytes().empty());
  EXPECT_TRUE((*files_.Map("/dev/null"))->bytes().empty());
  EXPECT_THAT(files_.Map(dir_), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("Is a directory")));
}

TEST_F(PosixFileSystemTest, WriteFileReplaces) {
  ASSERT_OK(files_.WriteFile(Path("x"), "a longer first content"));
  ASSERT_OK(files_.WriteFile(Path("x"), "second"));
  EXPECT_EQ(*files_.ReadFile(Path("x")), "second");
  EXPECT_THAT(*files_.List(dir_), ElementsAre("a", "x"));
  EXPECT_THAT(files_.WriteFile(Path("a"), "a folder is in the way"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(*files_.List(dir_), ElementsAre("a", "x"));
  EXPECT_THAT(files_.WriteFile(Path("none/x"), ""), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none/x.tmp")));
}

TEST_F(PosixFileSystemTest, ReadsWhatHasNoSize) {
  ASSERT_OK_AND_ASSIGN(const std::string status, files_.ReadFile("/proc/self/status"));
  EXPECT_THAT(status, HasSubstr("VmRSS"));
  EXPECT_THAT(files_.ReadFile(dir_), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(PosixFileSystemTest, ListsStatsRenamesRemoves) {
  ASSERT_OK(files_.WriteFile(Path("a/2"), "22"));
  ASSERT_OK(files_.WriteFile(Path("a/1"), "1"));
  EXPECT_THAT(*files_.List(Path("a")), ElementsAre("1", "2", "b"));
  ASSERT_OK_AND_ASSIGN(const FileInfo info, files_.Stat(Path("a/2")));
  EXPECT_EQ(info.size_bytes, 2U);
  EXPECT_FALSE(info.is_directory);
  EXPECT_NE(info.inode, 0U);
  EXPECT_TRUE(files_.Stat(Path("a"))->is_directory);
  ASSERT_OK(files_.Rename(Path("a/1"), Path("a/2")));
  EXPECT_EQ(*files_.ReadFile(Path("a/2")), "1");
  ASSERT_OK(files_.SyncDirectory(Path("a")));
  EXPECT_THAT(files_.SyncDirectory(Path("a/2")), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(files_.Remove(Path("a")), StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_OK(files_.Remove(Path("a/2")));
  ASSERT_OK(files_.Remove(Path("a/b")));
  EXPECT_THAT(files_.Remove(Path("a/b")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(files_.MakeDirectories("/dev/null/x"), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(PathTest, JoinsAndSplits) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
  EXPECT_EQ(JoinPath("a", ""), "a");
  EXPECT_EQ(JoinPath("a", "/b"), "/b");
  EXPECT_EQ(BaseName("/a/b"), "b");
  EXPECT_EQ(BaseName("/a/b/"), "b");
  EXPECT_EQ(BaseName("b"), "b");
  EXPECT_EQ(BaseName("/"), "/");
  EXPECT_EQ(DirName("/a/b"), "/a");
  EXPECT_EQ(DirName("/a//b/"), "/a");
  EXPECT_EQ(DirName("/a"), "/");
  EXPECT_EQ(DirName("a"), ".");
  EXPECT_EQ(DirName("/"), "/");
}

}  // namespace
}  // namespace strata::runtime
