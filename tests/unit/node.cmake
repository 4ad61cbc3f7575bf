# Tests of daemon/node and daemon/shim.
lh_test(test_sigv4 SOURCES unit/test_sigv4.c LINK lh_node)
lh_test(test_node_parts SOURCES unit/test_node_parts.c LINK lh_node)
lh_test(test_shim_outcome SOURCES unit/test_shim_outcome.c LINK lh_shim)
lh_test(test_shim_caplog SOURCES unit/test_shim_caplog.c LINK lh_shim)
lh_test(test_evict SOURCES unit/test_evict.c LINK lh_node)
