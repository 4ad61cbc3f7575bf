# Tests of daemon/node and daemon/shim.
lh_test(test_sigv4 SOURCES unit/test_sigv4.c LINK lh_node)
