"""One file of client properties for three clients; what one of them could not use is refused by its rule."""

import pytest

from lib.infra import kafka
from lib.params import ParameterError

LOGIN = {
    "security.protocol": "SASL_SSL",
    "sasl.mechanism": "PLAIN",
    "sasl.jaas.config": 'm required username="ada" password="opensesame";',
}


def test_a_file_is_read_as_java_reads_it(tmp_path):
    path = tmp_path / "client.properties"
    path.write_text(
        '# a comment\n! another\n\n a = b=c\nlong=one, \\\n    two\nback=\\\\\nletter=\\u00e9é\\t\\"\n',
        encoding="utf-8",
    )
    assert kafka.read_properties(path) == {"a": "b=c", "long": "one, two", "back": "\\", "letter": 'éé\t"'}
    assert kafka.read_properties(None) == {}
    with pytest.raises(ParameterError, match="must be a readable file. Got .*none.properties"):
        kafka.read_properties(tmp_path / "none.properties")


def test_a_property_is_read_in_any_case_and_a_protocol_that_is_none_is_named(tmp_path):
    path = tmp_path / "client.properties"
    path.write_text("Security.Protocol=sasl_ssl\nmax.block.ms=5")
    assert kafka.read_properties(path) == {"security.protocol": "SASL_SSL", "max.block.ms": "5"}
    path.write_text("security.protocol=TLS")
    with pytest.raises(ParameterError, match="must be one of PLAINTEXT, SSL, .*Got TLS"):
        kafka.read_properties(path)


@pytest.mark.parametrize(
    "login",
    [
        'm required username="ada" password="open \\"sesame\\" \\\\";',
        'm required\n username=ada password="open \\"sesame\\" \\\\";',
        'm required password = "open \\"sesame\\" \\\\" username = "ada";',
    ],
)
def test_user_and_password_are_those_of_javas_login_module(login):
    properties = {**LOGIN, "sasl.jaas.config": login}
    options = kafka.for_python(properties)
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("ada", 'open "sesame" \\')
    options = kafka.for_librdkafka(properties)
    assert (options["sasl.username"], options["sasl.password"]) == ("ada", 'open "sesame" \\')


def test_certificates_are_files_and_a_store_holds_the_chain_and_the_key(tmp_path):
    store = tmp_path / "me.pem"
    store.touch()
    properties = {"security.protocol": "SSL", "ssl.keystore.type": "PEM", "ssl.keystore.location": str(store)}
    properties |= {"ssl.key.password": "opensesame", "ssl.endpoint.identification.algorithm": ""}
    python, librdkafka = kafka.for_python(properties), kafka.for_librdkafka(properties)
    assert python.pop("ssl_certfile") == python.pop("ssl_keyfile") == str(store)
    assert python == {"security_protocol": "SSL", "ssl_password": "opensesame", "ssl_check_hostname": False}
    assert librdkafka.pop("ssl.certificate.location") == librdkafka.pop("ssl.key.location") == str(store)
    same = ("security.protocol", "ssl.key.password")
    assert librdkafka == {name: properties[name] for name in same} | {
        "ssl.endpoint.identification.algorithm": "none"
    }


@pytest.mark.parametrize("client", [kafka.for_python, kafka.for_librdkafka])
@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"sasl.jaas.config": 'm required username="ada";'}, "Got no password that can be read"),
        ({"sasl.jaas.config": ""}, "Got no username that can be read"),
        ({"ssl.truststore.location": "ca.jks"}, "ssl.truststore.type=PEM.* Got 'ca.jks' and ''"),
        ({"ssl.truststore.type": "PEM"}, "ssl.truststore.location must be a readable PEM file.* Got ''"),
        (
            {"ssl.keystore.certificate.chain": "-----BEGIN"},
            "ssl.keystore.location must be a readable PEM file",
        ),
    ],
)
def test_what_one_of_the_clients_cannot_use_is_refused_by_its_rule(client, more, rule):
    with pytest.raises(ParameterError, match=rule) as caught:
        client({**LOGIN, **more})
    assert "opensesame" not in str(caught.value)
