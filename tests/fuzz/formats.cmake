# Fuzz targets of worker/formats and worker/text.
lh_fuzz(safetensors LINK lh_formats)
lh_fuzz(model_config LINK lh_formats)
lh_fuzz(gguf LINK lh_text)
lh_fuzz(tokenizer LINK lh_text)
lh_fuzz(encode LINK lh_text)
