#include "client/model/arena.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace strata::model {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

TEST(Arena, WhatIsReleasedIsTakenAgain) {
  Arena arena(at::kCPU);
  const at::Tensor below = arena.Take({3, 5}, at::kFloat);
  void* place = nullptr;
  {
    ArenaScope scope(arena);
    place = arena.Take({7}, at::kFloat).data_ptr();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(place) % 64, 0U);
  }
  EXPECT_EQ(arena.Take({2}, at::kDouble).data_ptr(), place);
  EXPECT_NE(below.data_ptr(), place);
  EXPECT_EQ(below.sizes(), at::IntArrayRef({3, 5}));
}

TEST(Arena, ManyPiecesBecomeOneOfTheLargestNeed) {
  Arena arena(at::kCPU);
  for (int i = 0; i < 3; ++i) arena.Take({20 * kMiB}, at::kByte);  // two do not fit into one piece
  EXPECT_GT(arena.capacity_bytes(), 64U * kMiB);
  arena.Reset();
  EXPECT_EQ(arena.capacity_bytes(), 60U * kMiB);
  for (int i = 0; i < 6; ++i) arena.Take({10 * kMiB}, at::kByte);
  EXPECT_EQ(arena.capacity_bytes(), 60U * kMiB) << "other sizes, same sum";
  arena.Take({10 * kMiB}, at::kByte);
  arena.Reset();
  EXPECT_EQ(arena.capacity_bytes(), 70U * kMiB);
  arena.Reset();
  EXPECT_EQ(arena.capacity_bytes(), 70U * kMiB);
}

TEST(Arena, AScopeDoesNotCountTwice) {
  Arena arena(at::kCPU);
  for (int i = 0; i < 4; ++i) {
    ArenaScope scope(arena);
    arena.Take({40 * kMiB}, at::kByte);
    arena.Take({1 * kMiB}, at::kByte);
  }
  arena.Reset();
  EXPECT_EQ(arena.capacity_bytes(), 41U * kMiB);
}

}  // namespace
}  // namespace strata::model
