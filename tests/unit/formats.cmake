# Tests of worker/formats, worker/text, worker/data.
foreach(name gguf peft safetensors source)
  lh_test(test_${name} SOURCES unit/test_${name}.c LINK lh_formats m)
endforeach()
