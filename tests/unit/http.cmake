# Tests of the HTTP server, the metrics registry and the API's own parts.
if(TARGET coord_http)
  lh_test(test_metrics SOURCES unit/test_metrics.c LINK coord_metrics)
  lh_test(test_http SOURCES unit/test_http.c LINK coord_http)
endif()
