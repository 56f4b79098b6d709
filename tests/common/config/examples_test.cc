#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "common/config/config.h"
#include "common/config/schema.h"
#include "common/runtime/posix_file_system.h"
#include "proto/config.pb.h"
#include "tests/testing/status_matchers.h"

namespace strata::config {
namespace {

std::string Example(const std::string& name) {
  runtime::PosixFileSystem files;
  const auto text = files.ReadFile(std::string(STRATA_SOURCE_DIR) + "/deploy/config/" + name);
  EXPECT_OK(text);
  return text.value_or("");
}

void Collect(const Descriptor& message, std::set<std::string>& keys, const Descriptor* without) {
  if (&message == without) return;
  for (const std::string& key : KeysOf(message)) {
    keys.insert(key);
    const FieldDescriptor& field = *message.FindFieldByName(key);
    const bool section =
        field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_map() && !IsOrderedMap(field);
    if (section) Collect(*field.message_type(), keys, without);
  }
}

// Every key stands in the example, set or in a comment, as a key with its colon, and a comment is never far.
void ExpectEveryKey(const std::string& text, const Descriptor& message, const Descriptor* without = nullptr) {
  std::set<std::string> keys;
  Collect(message, keys, without);
  for (const std::string& key : keys) {
    bool found = false;
    for (size_t at = text.find(key + ":"); at != std::string::npos && !found; at = text.find(key + ":", at + 1)) {
      found = at > 0 && std::string_view(" \n-{").find(text[at - 1]) != std::string_view::npos;
    }
    EXPECT_TRUE(found) << "`" << key << "` of " << message.full_name() << " is missing";
  }
}

TEST(ExamplesTest, Server) {
  const std::string text = Example("server.yaml");
  EXPECT_OK(ParseServer(text, "server.yaml"));
  ExpectEveryKey(text, *v1::ServerConfig::descriptor());
}

TEST(ExamplesTest, Client) {
  const std::string text = Example("client.yaml");
  EXPECT_OK(ParseClient(text, "client.yaml"));
  ExpectEveryKey(text, *v1::ClientConfig::descriptor());
}

TEST(ExamplesTest, Job) {
  const std::string text = Example("job.yaml");
  EXPECT_OK(ParseJob(text, "job.yaml"));
  ExpectEveryKey(text, *v1::JobConfig::descriptor(), v1::TrainConfig::descriptor());
}

// The values that train.yaml shows are the defaults.
TEST(ExamplesTest, Train) {
  const std::string text = Example("train.yaml");
  ASSERT_OK_AND_ASSIGN(TrainOptions options, ParseTrain(text, "train.yaml"));
  ExpectEveryKey(text, *v1::TrainConfig::descriptor());
  options.adapter.specified = false;
  EXPECT_EQ(PrintTrain(options), PrintTrain(TrainOptions()));
}

TEST(ExamplesTest, Sim) {
  const std::string text = Example("sim.yaml");
  EXPECT_OK(ParseSim(text, "sim.yaml"));
  ExpectEveryKey(text, *v1::SimConfig::descriptor(), v1::JobConfig::descriptor());
}

}  // namespace
}  // namespace strata::config
