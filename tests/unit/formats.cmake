# Tests of worker/formats, worker/text, worker/data.
foreach(name mapping gguf peft safetensors source tokenizer dataset dialog prepare sentencepiece)
  lh_test(test_${name} SOURCES unit/test_${name}.c LINK lh_data m)
  target_compile_definitions(test_${name} PRIVATE LH_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
endforeach()
# Some files of 16 MiB, each prepared six times.
lh_test(test_prepare_resume SOURCES unit/test_prepare_resume.c LINK lh_data m LABELS full)
