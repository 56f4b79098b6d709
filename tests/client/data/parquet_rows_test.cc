#include "client/data/parquet_rows.h"

#include <arrow/array/builder_binary.h>
#include <arrow/array/builder_dict.h>
#include <arrow/array/builder_nested.h>
#include <arrow/array/builder_primitive.h>
#include <arrow/buffer.h>
#include <arrow/io/memory.h>
#include <arrow/json/reader.h>
#include <arrow/table.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <parquet/arrow/writer.h>
#include <parquet/properties.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "client/data/dataset.h"
#include "common/runtime/posix_file_system.h"
#include "tests/testing/status_matchers.h"

namespace strata::data {
namespace {

using ::strata::testing::IsOk;
using ::strata::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Table = std::shared_ptr<arrow::Table>;

// What lines of JSON say, in the types of `schema`.
Table TableOf(const std::string& lines, const std::shared_ptr<arrow::Schema>& schema) {
  auto read = arrow::json::ReadOptions::Defaults();
  read.use_threads = false;
  auto parse = arrow::json::ParseOptions::Defaults();
  parse.explicit_schema = schema;
  const auto input = std::make_shared<arrow::io::BufferReader>(arrow::Buffer::FromString(lines));
  return (*arrow::json::TableReader::Make(arrow::default_memory_pool(), input, read, parse))->Read().ValueOrDie();
}

std::string Written(const Table& table, int64_t group_rows = 1000,
                    parquet::Compression::type codec = parquet::Compression::SNAPPY) {
  const auto out = arrow::io::BufferOutputStream::Create().ValueOrDie();
  const auto properties = parquet::WriterProperties::Builder().compression(codec)->enable_page_checksum()->build();
  const auto arrow_properties = parquet::ArrowWriterProperties::Builder().store_schema()->build();
  EXPECT_TRUE(
      parquet::arrow::WriteTable(*table, arrow::default_memory_pool(), out, group_rows, properties, arrow_properties)
          .ok());
  return (*out->Finish())->ToString();
}

class ParquetRowsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "/parquet_rows_test";
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& content, const std::string& name = "rows.parquet") const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << content;
    return folder_ + "/" + name;
  }

  // Every row as a line of JSON; bad ones as "NUMBER: REASON".
  absl::StatusOr<std::vector<std::string>> ReadAll(const std::string& path) {
    auto source = OpenRows(files_, path);
    if (!source.ok()) return source.status();
    std::vector<std::string> lines;
    while (true) {
      const auto row = (*source)->Next();
      if (!row.ok()) return row.status();
      if (!row->has_value()) return lines;
      lines.push_back((*row)->object.ok()
                          ? (*row)->object->dump()
                          : std::to_string((*row)->number) + ": " + std::string((*row)->object.status().message()));
    }
  }

  std::string folder_;
  runtime::PosixFileSystem files_;
};

TEST_F(ParquetRowsTest, ColumnsBecomeKeysInTheFilesOrder) {
  const auto turn = arrow::struct_({arrow::field("role", arrow::utf8()), arrow::field("content", arrow::utf8()),
                                    arrow::field("weight", arrow::float64())});
  const auto schema = arrow::schema({arrow::field("messages", arrow::list(turn)), arrow::field("ok", arrow::boolean()),
                                     arrow::field("n", arrow::int64()), arrow::field("small", arrow::uint8()),
                                     arrow::field("ids", arrow::list(arrow::int32())),
                                     arrow::field("wide", arrow::large_utf8()), arrow::field("x", arrow::float32())});
  const std::string first =
      R"({"messages":[{"role":"user","content":"Grüß 😀","weight":null},{"role":"assistant","content":"b","weight":0.5}],)"
      R"("ok":true,"n":-9007199254740993,"small":255,"ids":[1,2,3],"wide":"w","x":1.5})";
  const std::string second = R"({"messages":[],"ok":false,"n":0,"small":0,"ids":[],"wide":"","x":-2.0})";
  const Table table = TableOf(first + "\n" + second + "\n{\"n\": 7}\n", schema);
  EXPECT_THAT(*ReadAll(Write(Written(table))), ElementsAre(first, second, R"({"n":7})"));
}

TEST_F(ParquetRowsTest, DatesDecimalsDictionariesAndMapsHaveAForm) {
  const auto schema =
      arrow::schema({arrow::field("day", arrow::date32()), arrow::field("at", arrow::timestamp(arrow::TimeUnit::MILLI)),
                     arrow::field("price", arrow::decimal128(9, 2))});
  const std::string row = R"({"day":"2026-11-26","at":"2026-11-26 12:30:00.000","price":"12.50")";
  Table table = TableOf(R"({"day":20783,"at":"2026-11-26 12:30:00.000","price":"12.50"})", schema);
  const auto add = [&table](const std::string& name, const std::shared_ptr<arrow::Array>& column) {
    table = table
                ->AddColumn(table->num_columns(), arrow::field(name, column->type()),
                            std::make_shared<arrow::ChunkedArray>(column))
                .ValueOrDie();
  };
  arrow::StringDictionary32Builder labels;
  ASSERT_TRUE(labels.Append("b").ok());
  add("label", labels.Finish().ValueOrDie());
  const auto keys = std::make_shared<arrow::StringBuilder>();
  const auto items = std::make_shared<arrow::Int64Builder>();
  arrow::MapBuilder scores(arrow::default_memory_pool(), keys, items);
  ASSERT_TRUE(scores.Append().ok() && keys->Append("a").ok() && items->Append(1).ok());
  add("scores", scores.Finish().ValueOrDie());
  EXPECT_THAT(*ReadAll(Write(Written(table))), ElementsAre(row + R"(,"label":"b","scores":{"a":1}})"));
}

TEST_F(ParquetRowsTest, ColumnsOfBytesAreLeftOutAndTextMustBeUtf8) {
  arrow::BinaryBuilder bytes;
  arrow::StringBuilder text;
  for (const char* item : {"fine", "\xff\xfe", "fine again"}) {
    ASSERT_TRUE(bytes.Append(item).ok() && text.Append(item).ok());
  }
  const Table table =
      arrow::Table::Make(arrow::schema({arrow::field("image", arrow::binary()), arrow::field("text", arrow::utf8())}),
                         {bytes.Finish().ValueOrDie(), text.Finish().ValueOrDie()});
  EXPECT_THAT(*ReadAll(Write(Written(table))),
              ElementsAre(R"({"text":"fine"})", "2: 'text': text that is not UTF-8", R"({"text":"fine again"})"));
}

TEST_F(ParquetRowsTest, ManyRowGroupsBatchesAndCodecsGiveTheSameRows) {
  std::string lines;
  std::vector<std::string> expected;
  for (int i = 0; i < 1500; ++i) {
    expected.push_back("{\"input_ids\":[" + std::to_string(i) + ",5]}");
    lines += expected.back() + "\n";
  }
  const Table table = TableOf(lines, arrow::schema({arrow::field("input_ids", arrow::list(arrow::int64()))}));
  using parquet::Compression;
  for (const auto codec : {Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP, Compression::ZSTD,
                           Compression::BROTLI, Compression::LZ4}) {
    EXPECT_EQ(*ReadAll(Write(Written(table, 700, codec))), expected) << codec;
  }
  const auto dataset = ReadDataset(files_, Write(Written(table, 1)), nullptr, 0, {});
  ASSERT_THAT(dataset, IsOk());
  EXPECT_EQ(dataset->rows.size(), 1500);
  EXPECT_THAT(dataset->rows[1499].ids, ElementsAre(1499, 5));
}

TEST_F(ParquetRowsTest, BadRowsAreNamedByTheirNumber) {
  const Table table = TableOf("{\"input_ids\": [1, 2]}\n{\"input_ids\": [1, 900]}\n{}\n",
                              arrow::schema({arrow::field("input_ids", arrow::list(arrow::int64()))}));
  const std::string path = Write(Written(table));
  EXPECT_THAT(ReadDataset(files_, path, nullptr, 256, {}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("rows.parquet:2: 'input_ids'[1] is 900"), HasSubstr("rows.parquet:3: none"))));
  const auto skipped = ReadDataset(files_, path, nullptr, 256, {.skip_bad_rows = true});
  ASSERT_THAT(skipped, IsOk());
  EXPECT_EQ(skipped->rows.size(), 1);
  EXPECT_EQ(skipped->num_bad, 2);
}

TEST_F(ParquetRowsTest, AnEmptyTableHasNoRows) {
  const Table table = arrow::Table::MakeEmpty(arrow::schema({arrow::field("text", arrow::utf8())})).ValueOrDie();
  EXPECT_THAT(*ReadAll(Write(Written(table))), ElementsAre());
}

TEST_F(ParquetRowsTest, EncryptedFilesAreRefused) {
  EXPECT_THAT(ReadAll(Write("PARE....PARE")), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("encrypted")));
}

TEST_F(ParquetRowsTest, CutFilesAreDataLossAndFlippedOnesNeverGiveOtherRows) {
  const std::string lines = "{\"text\": \"one\", \"n\": 1}\n{\"text\": \"two\", \"n\": 2}\n";
  const Table table =
      TableOf(lines, arrow::schema({arrow::field("text", arrow::utf8()), arrow::field("n", arrow::int64())}));
  const std::string whole = Written(table);
  for (size_t size = 4; size < whole.size(); ++size) {
    EXPECT_THAT(ReadAll(Write(whole.substr(0, size))), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("rows.parquet")))
        << size;
  }
  // The pages have check sums; the footer, which has none, begins behind them.
  uint32_t footer = 0;
  std::memcpy(&footer, whole.data() + whole.size() - 8, sizeof(footer));
  const auto rows = *ReadAll(Write(whole));
  size_t refused = 0;
  for (size_t i = 4; i < whole.size() - 8; ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x41);
    const auto read = ReadAll(Write(flipped));
    refused += read.ok() ? 0 : 1;
    EXPECT_EQ(read.status().message().find('\n'), std::string::npos) << read.status();
    if (i < whole.size() - 8 - footer && read.ok()) {
      EXPECT_EQ(*read, rows) << i;
    }
  }
  EXPECT_GT(refused, whole.size() / 4);
}

}  // namespace
}  // namespace strata::data
