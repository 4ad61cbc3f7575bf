/* Signatures against the vectors that AWS publishes: the Signature V4 test suite and the examples
 * of the S3 reference. */
#include "daemon/node/sigv4.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define AT_2015 1440938160u /* 20150830T123600Z */
#define AT_2013 1369353600u /* 20130524T000000Z */

static const struct sigv4_keys suite = {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
                                        "us-east-1", "service"};
static const struct sigv4_keys s3 = {"AKIAIOSFODNN7EXAMPLE",
                                     "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1", "s3"};

static void check(const struct sigv4_request *q, const struct sigv4_keys *keys, uint64_t at,
                  const char *signature)
{
    char auth[SIGV4_AUTH_MAX];

    assert_int_equal(sigv4_sign(q, keys, at, auth), 0);
    assert_non_null(strstr(auth, "Signature="));
    assert_string_equal(strstr(auth, "Signature=") + 10, signature);
}

static void the_vectors_of_the_test_suite_hold(void **state)
{
    struct sigv4_request q = {
        "GET",
        "/",
        "",
        EMPTY,
        {{"host", "example.amazonaws.com"}, {"x-amz-date", "20150830T123600Z"}},
        2};
    char date[SIGV4_DATE_MAX];

    (void)state;
    sigv4_date(AT_2015, date);
    assert_string_equal(date, "20150830T123600Z");
    check(&q, &suite, AT_2015, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
    q.query = "Param1=value1&Param2=value2";
    check(&q, &suite, AT_2015, "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500");
    q.query = "";
    q.method = "POST";
    check(&q, &suite, AT_2015, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
}

static void the_examples_of_the_s3_reference_hold(void **state)
{
    struct sigv4_request get = {"GET",
                                "/test.txt",
                                "",
                                EMPTY,
                                {{"host", "examplebucket.s3.amazonaws.com"},
                                 {"range", "bytes=0-9"},
                                 {"x-amz-content-sha256", EMPTY},
                                 {"x-amz-date", "20130524T000000Z"}},
                                4};
    struct sigv4_request list = {"GET",
                                 "/",
                                 "lifecycle=",
                                 EMPTY,
                                 {{"host", "examplebucket.s3.amazonaws.com"},
                                  {"x-amz-content-sha256", EMPTY},
                                  {"x-amz-date", "20130524T000000Z"}},
                                 3};
    const char *sha = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    struct sigv4_request put = {"PUT",
                                "/test%24file.text",
                                "",
                                sha,
                                {{"date", "Fri, 24 May 2013 00:00:00 GMT"},
                                 {"host", "examplebucket.s3.amazonaws.com"},
                                 {"x-amz-content-sha256", sha},
                                 {"x-amz-date", "20130524T000000Z"},
                                 {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
                                5};

    (void)state;
    check(&get, &s3, AT_2013, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    check(&put, &s3, AT_2013, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    check(&list, &s3, AT_2013, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    list.query = "max-keys=2&prefix=J";
    check(&list, &s3, AT_2013, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void all_but_unreserved_characters_are_encoded(void **state)
{
    char buf[64];

    (void)state;
    assert_int_equal(sigv4_encode("a b/c=d+e~\xc3\xa9", 1, buf, sizeof(buf)), 0);
    assert_string_equal(buf, "a%20b/c%3Dd%2Be~%C3%A9");
    assert_int_equal(sigv4_encode("a/b", 0, buf, sizeof(buf)), 0);
    assert_string_equal(buf, "a%2Fb");
    assert_true(sigv4_encode("a/b", 0, buf, 5) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vectors_of_the_test_suite_hold),
        cmocka_unit_test(the_examples_of_the_s3_reference_hold),
        cmocka_unit_test(all_but_unreserved_characters_are_encoded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
