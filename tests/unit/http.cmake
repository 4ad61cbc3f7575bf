# Tests of the HTTP server, the metrics registry and the API.
if(TARGET coord_api)
  lh_test(test_metrics SOURCES unit/test_metrics.c LINK coord_metrics)
  lh_test(test_http SOURCES unit/test_http.c LINK coord_http)
  lh_test(test_api SOURCES unit/test_api.c unit/api_app.c LINK coord_api coord_core)
endif()
