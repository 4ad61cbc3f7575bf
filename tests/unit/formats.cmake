# Tests of worker/formats, worker/text, worker/data.
foreach(name gguf peft safetensors source)
  lh_test(test_${name} SOURCES unit/test_${name}.c LINK lh_formats m)
endforeach()
lh_test(test_tokenizer SOURCES unit/test_tokenizer.c LINK lh_text)
target_compile_definitions(test_tokenizer PRIVATE LH_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
lh_test(test_dataset SOURCES unit/test_dataset.c LINK lh_data)
lh_test(test_prepare SOURCES unit/test_prepare.c LINK lh_data)
