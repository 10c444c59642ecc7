#include "client/agent/model_folder.h"

#include "base/files.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/unit/client/fakes.h"

namespace choir::client {
namespace {

TEST(ModelFolderTest, LinksFilesAndForgetsOtherModels) {
  const std::string state = tests::NewTempDir();
  const std::string models = base::JoinPath(state, "models");
  const std::string blobs = base::JoinPath(state, "blobs");
  ASSERT_TRUE(base::MakeDirectories(models).ok());
  ASSERT_TRUE(base::MakeDirectories(blobs).ok());
  ASSERT_TRUE(base::WriteFileAtomic(
                  base::JoinPath(blobs, RefOf("data").digest()), "data")
                  .ok());
  ASSERT_TRUE(base::MakeDirectories(base::JoinPath(models, "old")).ok());
  v1::TaskPlan plan;
  v1::ModelFile* file = plan.add_base_model();
  file->set_name("config.json");
  *file->mutable_blob() = RefOf("data");
  for (int i = 0; i < 2; ++i) {
    const auto folder = LinkModelFolder(models, plan.base_model());
    ASSERT_TRUE(folder.ok()) << folder.status();
    EXPECT_EQ(*base::ReadFile(base::JoinPath(*folder, "config.json")), "data");
  }
  EXPECT_FALSE(base::FileExists(base::JoinPath(models, "old")));
  for (const char* bad : {"", "..", ".x", "a/b", "a\\b", "a b"}) {
    plan.mutable_base_model(0)->set_name(bad);
    EXPECT_FALSE(CheckModelFiles(plan.base_model()).ok()) << bad;
  }
  EXPECT_FALSE(CheckModelFiles({}).ok());
}

}  // namespace
}  // namespace choir::client
